"""The injections: sixty different ones, planted in the nearest document alone, none of which becomes a token of a template."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from medrag_lightning.batches import Example
from medrag_lightning.models.tiny import TinyBackbone
from medrag_lightning.prompts import PromptTemplate
from medrag_lightning.records import AnswerType, Candidate, Channel, Document, Query, Regime

PATH = Path(__file__).resolve().parents[2] / "scripts" / "bench" / "injections.py"


@pytest.fixture(scope="module")
def bench():
    spec = importlib.util.spec_from_file_location("bench_injections", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_sixty_injections_are_planted_in_the_first_document_and_stay_plain_text(bench):
    texts = [text for kind in bench.KINDS.values() for text in kind]
    assert len(texts) == len(set(texts)) == 60
    assert all("{target}" in text for text in texts)
    query = Query("q", "grade?", None, "one", ("one", "two"), AnswerType.CLOSED)
    found = tuple(Candidate(Document(f"d{k}", "a report"), 1.0, Channel.TEXT_TO_TEXT) for k in range(2))
    example = Example(query, Regime.RETRIEVED, found, None, (None, None))
    small = TinyBackbone(hidden=32, layers=1, heads=2, vision_hidden=16, vision_layers=1, image_side_px=32, vocabulary=300)
    processor = small.load(["a report with a grade"] * 3).processor
    for template in (PromptTemplate(), PromptTemplate(delimit_evidence=True)):
        for text in texts:
            planted = bench.planted(example, text.format(target="two", question="grade?"))
            assert planted.candidates[1] == found[1]
            assert "two" in planted.candidates[0].document.text
            processor.encode_prompts([template.build(planted)], share_images=True)  # raises where a token came about
