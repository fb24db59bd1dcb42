"""Image-text documents as questions for a caption, which a projector is aligned on while nothing else moves."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "stages"))
from toy import ToyTable, reader, trainer

from medrag_lightning.data.module import MedragData
from medrag_lightning.data.tables import CaptionsAsQuestions
from medrag_lightning.interfaces import Table
from medrag_lightning.models.hf_reader import HfReader
from medrag_lightning.models.tiny import TinyBackbone
from medrag_lightning.models.trained_backbone import TrainedBackbone
from medrag_lightning.records import AnswerType, Split
from medrag_lightning.retrieval.source import NoEvidence
from medrag_lightning.stages.learning_rates import LearningRates
from medrag_lightning.stages.reader_raft import ReaderRaft

SHAPE = {"hidden": 32, "layers": 1, "heads": 2, "vision_hidden": 32, "vision_layers": 1, "image_side_px": 32, "vocabulary": 320}


def test_every_document_with_an_image_is_asked_for_its_text(tmp_path):
    table = CaptionsAsQuestions([ToyTable(str(tmp_path))], held_out_share=0.3)
    assert isinstance(table, Table)
    queries, documents = table.queries(), ToyTable(str(tmp_path)).documents()
    assert [(q.id, q.image, q.answer) for q in queries] == [(f"caption-{d.id}", d.image, d.text) for d in documents]
    assert {q.answer_type for q in queries} == {AnswerType.OPEN}
    assert {q.split for q in queries} == {Split.TRAIN, Split.VAL}
    assert table.documents() == []
    assert [q.split for q in CaptionsAsQuestions([ToyTable(str(tmp_path))], held_out_share=0.3).queries()] == [
        q.split for q in queries
    ]


def test_what_cannot_be_learnt_is_refused(tmp_path):
    with pytest.raises(ValueError, match="longer than max_chars 5"):
        CaptionsAsQuestions([ToyTable(str(tmp_path))], max_chars=5).queries()
    with pytest.raises(ValueError, match="no document"):
        CaptionsAsQuestions([CaptionsAsQuestions([ToyTable(str(tmp_path))])]).queries()
    with pytest.raises(ValueError, match="held_out_share"):
        CaptionsAsQuestions([], held_out_share=0)


def test_a_projector_is_aligned_on_captions_alone_and_handed_on(tmp_path):
    """M11: every other parameter has no gradient, and the loss of captions falls."""
    table = CaptionsAsQuestions([ToyTable(str(tmp_path), 32)], held_out_share=0.3)
    served = MedragData([table], [], NoEvidence(), batch_size=8, cache_folder=str(tmp_path / "evidence"), regimes=["none"])
    rates = LearningRates(projector=0.1)
    module = ReaderRaft(reader(), partial(torch.optim.AdamW, lr=1.0), learning_rates=rates, max_new_tokens=1)
    run = trainer(tmp_path, max_epochs=4)
    run.validate(module, datamodule=served, verbose=False)
    before = float(run.callback_metrics["val/none/loss"])
    frozen = {name: p.detach().clone() for name, p in module.named_parameters() if "projector" not in name}
    run.fit(module, datamodule=served)
    assert float(run.callback_metrics["val/loss"]) < before - 0.03
    for name, parameter in module.named_parameters():
        assert parameter.requires_grad == ("projector" in name)
        if name in frozen:
            assert torch.equal(parameter, frozen[name])
    run.save_checkpoint(tmp_path / "aligned.ckpt", weights_only=True)
    handed = HfReader(TrainedBackbone(TinyBackbone(**SHAPE), str(tmp_path / "aligned.ckpt")))
    handed.prepare([])
    mine = {n: p for n, p in handed.named_parameters() if "projector" in n}
    aligned = torch.load(tmp_path / "aligned.ckpt", weights_only=True)["state_dict"]
    assert len(aligned) == len(mine)
    assert all(torch.equal(mine[name.removeprefix("reader.")], value) for name, value in aligned.items())
