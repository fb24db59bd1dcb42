"""configs/stages/joint.yaml with a small reader: trained from a reader's checkpoint, its parts tested as a system."""

from pathlib import Path

import pytest
import torch

from medrag_lightning.artifacts import read_json
from medrag_lightning.cli import main

READER = "model.init_args.reader.init_args.backbone"
SMALL = {"hidden": 32, "layers": 1, "heads": 2, "vision_hidden": 32, "vision_layers": 1, "vocabulary": 400}
FEW = ["--data.init_args.max_train_queries=8", "--data.init_args.max_eval_queries=4", "--data.init_args.only=closed"]
OPTIONS = [*FEW, *[f"--{READER}.init_args.{key}={value}" for key, value in SMALL.items()]]
ONCE = ["--trainer.max_steps=1", "--trainer.max_epochs=-1", "--test_after_fit=false"]
HEADED = """
data:
  init_args:
    source:
      class_path: medrag_lightning.retrieval.source.LiveSearch
      init_args:
        per_channel: {{image_to_image: 2, image_to_text: 2}}
        encoder:
          class_path: medrag_lightning.models.headed_encoder.HeadedEncoder
          init_args:
            encoder: {{class_path: medrag_lightning.models.tiny_towers.TinyTowers}}
            text_head: {path}
            image_head: {path}
"""


@pytest.mark.timeout(900)
def test_a_reader_is_trained_on_with_its_retriever_and_both_are_tested(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    reading = ["-c", "data/minihospital", "-c", "stages/reader_raft"]
    main(["fit", *reading, *OPTIONS, *ONCE, "--trainer.default_root_dir=reader"])
    towers = ["--data.init_args.cache_folder=towers"]  # a store belongs to its encoder
    learning = ["--data.init_args.batch_size=4", "--model.init_args.reader_from=reader/checkpoints/last.ckpt", *towers]
    joint = ["-c", "data/minihospital", "-c", "stages/joint", "--trainer.default_root_dir=joint"]
    main(["fit", *joint, *OPTIONS, *ONCE, *learning])
    path = Path("joint/checkpoints/last.ckpt")
    assert torch.load(path, weights_only=True)["medrag"]["stage"] == "joint"
    Path("headed.yaml").write_text(HEADED.format(path=path))
    told = ["--data.init_args.regimes=[retrieved, none]", "--trainer.default_root_dir=test", *towers]
    main(["test", *reading, "-c", "headed.yaml", *OPTIONS, f"--ckpt_path={path}", *told])
    assert read_json("test/results.json")["rows"]
