"""configs/stages/query_generator.yaml with a small reader: trained, tuned, tested, and searched with."""

import json
from pathlib import Path

import pytest
import torch

from medrag_lightning.cli import main
from medrag_lightning.data.minihospital import MiniHospital
from medrag_lightning.preference_files import write_preferences
from medrag_lightning.records import Condition, PairKind, Preference, PreferenceSide, Split
from medrag_lightning.search_files import SearchRow, read_searches, write_searches

READER = "model.init_args.reader.init_args.backbone"
SMALL = {"hidden": 32, "layers": 1, "heads": 2, "vision_hidden": 32, "vision_layers": 1, "vocabulary": 400}
FEW = ["--data.init_args.max_train_queries=8", "--data.init_args.max_eval_queries=4"]
DATA = ["-c", "data/minihospital_texts", *FEW]
ONCE = ["--trainer.max_steps=1", "--trainer.max_epochs=-1", "--test_after_fit=false"]
GENERATOR = ["-c", "stages/query_generator", *DATA, "--model.init_args.max_new_tokens=8"]


def small(backbone: str) -> list[str]:
    return [f"--{backbone}.init_args.{key}={value}" for key, value in SMALL.items()]


def made(folder: Path) -> None:
    """Targets and pairs by hand, for the questions that the limits keep."""
    queries = MiniHospital(seed=1, reports="full", texts=True).queries()
    kept = [q for split in (Split.TRAIN, Split.VAL) for q in [q for q in queries if q.split is split][:8]]
    write_searches(folder / "targets", [SearchRow(q.id, q.split, (("wiki", "a red sign"),)) for q in kept], {"by": "hand"})
    sides = PreferenceSide(Condition(), "<wiki>a red sign</wiki>"), PreferenceSide(Condition(), "<wiki>a sign</wiki>")
    told = {split: [query for query in kept if query.split is split][:4] for split in (Split.TRAIN, Split.VAL)}
    pairs = {
        split: [Preference(query.id, query.id, PairKind.SEARCH_WORDING, None, *sides) for query in mine]
        for split, mine in told.items()
    }
    write_preferences(folder / "pairs", pairs, {"by": "hand"}, {})


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_generator_is_trained_tuned_tested_and_its_searches_are_searched_with(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    made(tmp_path)
    learning = [*GENERATOR, "--data.init_args.searches.targets=targets", "--data.init_args.searches.decoded=2"]
    main(["fit", *learning, *small(READER), *ONCE, "--trainer.default_root_dir=sft"])
    (sft,) = Path("sft/checkpoints").glob("best*.ckpt")
    assert torch.load(sft, weights_only=True)["medrag"]["description"]["corpora"][0] == "research"
    tuned = [f"--{READER}.init_args.checkpoint={sft}", *small(f"{READER}.init_args.backbone")]
    given = ["--data.init_args.preference={folder: pairs, rules: given}"]
    main(["fit", "-c", "stages/reader_preference", *DATA, *tuned, *given, *ONCE, "--trainer.default_root_dir=dpo"])
    dpo = "dpo/checkpoints/last.ckpt"
    policy = ["-c", "adapter.yaml", *tuned]
    Path("adapter.yaml").write_text(ADAPTER)
    main(["test", *GENERATOR, *policy, f"--ckpt_path={dpo}", "--trainer.default_root_dir=test"])
    assert json.loads(Path("test/searches.json").read_text())["k"] == 2
    assert "questions that ask each corpus: research" in capsys.readouterr().out
    main(["predict", *GENERATOR, *policy, f"--ckpt_path={dpo}", "--trainer.default_root_dir=search"])
    assert len(read_searches("runs/searches").rows) == 16
    reading = ["-c", "stages/reader_raft_all", *DATA, *small(READER), "--trainer.fast_dev_run=1"]
    main(["fit", *reading, "--data.init_args.searches={table: runs/searches}"])


ADAPTER = """
model:
  init_args:
    reader:
      class_path: medrag_lightning.models.hf_reader.HfReader
      init_args:
        backbone:
          class_path: medrag_lightning.models.trained_backbone.TrainedBackbone
          init_args:
            checkpoint: none.ckpt
            backbone: {class_path: medrag_lightning.models.tiny.TinyBackbone}
        adapter: {rank: 8, alpha: 16, language: true, vision: false, targets: all_linear}
"""
