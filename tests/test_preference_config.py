"""configs/stages/reader_preference.yaml with a small reader: from its training over the score table to the tuned one."""

import json
from pathlib import Path

import torch

from medrag_lightning.cli import main

READER = "model.init_args.reader.init_args.backbone"
SMALL = {"hidden": 32, "layers": 1, "heads": 2, "vision_hidden": 32, "vision_layers": 1, "vocabulary": 400}
FEW = ["--data.init_args.max_train_queries=48", "--data.init_args.max_eval_queries=32", "--data.init_args.only=closed"]
DATA = ["-c", "data/minihospital_texts", *FEW]
PLAN = """
data:
  init_args:
    scoring: {splits: [train, val], conditions: {none: false, each_candidate: false, knowledge: true}}
    knowledge: {draws: 1, max_reports: 4, max_documents: 4}
"""


def small(backbone: str) -> list[str]:
    return [f"--{backbone}.init_args.{key}={value}" for key, value in SMALL.items()]


def test_a_reader_is_tuned_on_pairs_from_its_own_scores(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    raft = ["--trainer.max_epochs=1", "--test_after_fit=false", "--trainer.default_root_dir=reader"]
    main(["fit", "-c", "stages/reader_raft_all", *DATA, *small(READER), *raft])
    (weights,) = Path("reader/checkpoints").glob("best*.ckpt")
    Path("plan.yaml").write_text(PLAN)
    scored = ["-c", "plan.yaml", "--model.init_args.template.evidence_prefix=report {number}: "]
    main(["predict", "-c", "stages/score", *DATA, *scored, *small(READER), f"--model.init_args.init_from={weights}"])
    tuning = [f"--{READER}.init_args.checkpoint={weights}", "--data.init_args.preference.rules=hkpt_v1"]
    tuning += ["--trainer.default_root_dir=tuned", "--trainer.max_epochs=1"]
    main(["fit", "-c", "stages/reader_preference", *DATA, *small(f"{READER}.init_args.backbone"), *tuning])
    (best,) = Path("tuned/checkpoints").glob("best*.ckpt")
    saved = torch.load(best, weights_only=True)
    assert saved["medrag"]["stage"] == "reader_preference"
    assert all("lora_" in name for name in saved["state_dict"])
    assert json.loads(Path("runs/pairs/statistics.json").read_text())["train"]["pairs"]
    assert "train/cross_modality_margin" in Path("tuned/metrics.csv").read_text().splitlines()[0]
