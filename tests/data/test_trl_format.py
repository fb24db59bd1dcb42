"""Pairs in trl's format: read by `datasets`, seen by trl's collator as by our reader, and trained on by trl's own trainer."""

from __future__ import annotations

import json
import logging
import math
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from medrag_lightning.batches import Example
from medrag_lightning.data.conditions import ConditionExamples
from medrag_lightning.data.trl_format import conversation, write_trl_dataset
from medrag_lightning.models.tiny import TinyBackbone
from medrag_lightning.prompts import PromptTemplate
from medrag_lightning.records import (
    Candidate,
    Channel,
    Condition,
    Document,
    ImageRef,
    ImageShown,
    Knowledge,
    PairKind,
    Preference,
    PreferenceSide,
    Query,
    Regime,
    Split,
)

WORDS = ["is there a nodule?", "background: a nodule on the left", "no finding", "yes no", "you read images"]
SIDE = {"hidden": 32, "layers": 1, "heads": 2, "vision_hidden": 16, "vision_layers": 1, "image_side_px": 32}
TEMPLATE = PromptTemplate(system="you read images")


def open_image(ref: ImageRef) -> Image.Image:
    pixels = np.random.default_rng(int(ref.path)).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


QUERIES = {f"q{n}": Query(f"q{n}", "is there a nodule?", ImageRef(str(n)) if n else None, "yes") for n in range(4)}
DOCUMENTS = {
    "report": Document("report", "a nodule on the left", ImageRef("9"), patient_id="somebody"),
    "article": Document("article", "no finding"),
}
BOTH, TEXT = Condition(("report", "article")), Condition(("article",))


def pair(name: str, query: str, kind: PairKind, chosen: Condition, rejected: Condition, answers: tuple[str, str]) -> Preference:
    sides = PreferenceSide(chosen, answers[0]), PreferenceSide(rejected, answers[1])
    return Preference(name, query, kind, None if kind is PairKind.CROSS_MODALITY else Knowledge.BOTH, *sides)


def made() -> dict[Split, list[Preference]]:
    other = replace(BOTH, image=ImageShown.OTHER, image_of="q2")
    spoilt = Condition(("article",), ImageShown.CORRUPTED, corruption="blank")
    train = [
        pair("a", "q1", PairKind.UTILISATION, BOTH, BOTH, ("yes", "no")),
        pair("b", "q1", PairKind.CROSS_MODALITY, BOTH, other, ("yes", "yes")),
        pair("c", "q0", PairKind.ROBUSTNESS, TEXT, TEXT, ("no finding", "yes")),
        pair("d", "q2", PairKind.ROBUSTNESS, Condition(), TEXT, ("yes", "no")),
        pair("e", "q2", PairKind.UTILISATION, other, other, ("no", "yes no")),
        pair("f", "q3", PairKind.UTILISATION, spoilt, spoilt, ("no", "yes no")),
    ]
    return {Split.TRAIN: train, Split.VAL: [pair("g", "q3", PairKind.UTILISATION, TEXT, TEXT, ("yes", "no"))]}


def written(folder: Path, pairs: dict[Split, list[Preference]] | None = None):  # type: ignore[no-untyped-def]
    return write_trl_dataset(made() if pairs is None else pairs, QUERIES, DOCUMENTS, TEMPLATE, open_image, folder)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):  # type: ignore[no-untyped-def]
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    folder = tmp_path_factory.mktemp("trl") / "pairs"
    written(folder)
    return datasets.load_dataset(str(folder), cache_dir=str(folder.parent / "cache"))


def test_only_pairs_of_one_input_are_written_and_the_rest_is_counted(tmp_path: Path) -> None:
    export = written(tmp_path / "pairs")
    assert export.written == {"train": 4, "validation": 1}
    assert export.left_out == {"train": {"cross_modality": 1, "knowledge_robustness": 1}, "validation": {}}
    told = "left out, since the two sides are shown different input: 1 of cross_modality, 1 of knowledge_robustness"
    assert told in str(export)
    readme = (tmp_path / "pairs" / "README.md").read_text(encoding="utf-8")
    assert "- train: 4 pairs" in readme
    assert "- train: 1 of cross_modality" in readme
    rows = [json.loads(line) for line in (tmp_path / "pairs/train/metadata.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["id"] for row in rows] == ["a", "c", "e", "f"]
    assert not {"query_id", "patient_id"} & set(rows[0])
    assert "somebody" not in json.dumps(rows)
    assert len(list((tmp_path / "pairs/train/images").iterdir())) == 4  # two queries, one report, one spoilt: each once
    assert [path.name for path in tmp_path.iterdir()] == ["pairs"]
    before = (tmp_path / "pairs/train").stat().st_mtime_ns
    assert written(tmp_path / "pairs") == export  # a second time: nothing is written
    assert (tmp_path / "pairs/train").stat().st_mtime_ns == before
    with pytest.raises(ValueError, match="holds something else"):
        written(tmp_path / "pairs", {Split.TRAIN: made()[Split.TRAIN][:3]})


def test_a_folder_that_holds_something_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("x")
    with pytest.raises(ValueError, match="holds something else"):
        written(tmp_path)
    with pytest.raises(ValueError, match=r"pair 'x' is about query 'gone'"):
        written(tmp_path / "new", {Split.TRAIN: [pair("x", "gone", PairKind.UTILISATION, TEXT, TEXT, ("a", "b"))]})
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_datasets_reads_it_with_images(loaded) -> None:  # type: ignore[no-untyped-def]
    assert {split: len(rows) for split, rows in loaded.items()} == {"train": 4, "validation": 1}
    first = loaded["train"][0]
    assert np.array_equal(np.asarray(first["images"][0]), np.asarray(open_image(ImageRef("9"))))
    assert [len(row["images"]) for row in loaded["train"]] == [2, 0, 2, 1]
    assert first["chosen"][0]["content"][0]["text"] == "yes"


def test_a_split_without_any_image_can_be_read(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    written(tmp_path / "pairs", {Split.TRAIN: [made()[Split.TRAIN][2]], Split.VAL: []})
    rows = datasets.load_dataset(str(tmp_path / "pairs"), cache_dir=str(tmp_path / "cache"))
    assert {split: [row["images"] for row in of] for split, of in rows.items()} == {"train": [[]]}


def test_trl_sees_what_our_reader_sees(loaded) -> None:  # type: ignore[no-untyped-def]
    from trl.trainer.dpo_trainer import DataCollatorForVisionPreference

    processor = TinyBackbone("llava", vocabulary=320, **SIDE).load(WORDS).processor  # type: ignore[arg-type]
    for row, mine in zip(loaded["train"], [p for p in made()[Split.TRAIN] if p.id in "acef"], strict=True):
        batch = DataCollatorForVisionPreference(processor.processor)([deepcopy(row)])
        (example,) = ConditionExamples(QUERIES, DOCUMENTS, open_image).build([(QUERIES[mine.query_id], mine.chosen.condition)])
        prompt = processor.encode_prompts([TEMPLATE.build(example)])
        answers = processor.encode_answers([mine.chosen.answer, mine.rejected.answer])
        for side, answer in enumerate(answers):
            ids, mask, done = (batch[name][side] for name in ("input_ids", "attention_mask", "completion_mask"))
            real = ids[mask.bool()]
            assert real[: -len(answer)].equal(prompt.ids_PT[0])
            assert real[-len(answer) :].tolist() == answer == ids[done.bool()].tolist()
        if "pixel_values" in prompt.vision:
            assert batch["pixel_values"].chunk(2)[0].equal(prompt.vision["pixel_values"])


@pytest.mark.parametrize("order", ["evidence_first", "query_first"])
def test_a_prompt_is_its_segments_in_order(order) -> None:  # type: ignore[no-untyped-def]
    template = PromptTemplate(order=order, instruction="read")
    candidate = Candidate(DOCUMENTS["report"], 0.5, Channel.GIVEN)
    images = open_image(ImageRef("1")), (open_image(ImageRef("9")),)
    prompt = template.build(Example(QUERIES["q1"], Regime.RETRIEVED, (candidate,), *images))
    (user,) = conversation(prompt)
    kinds = [part["type"] for part in user["content"]]
    assert kinds == ["text", "image", "text", "image", "text"]
    assert "".join(part["text"] or "" for part in user["content"]) == "".join(segment.text for segment in prompt.segments)


def test_trl_trains_on_it_from_ln_2(loaded, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    import peft
    from trl import DPOConfig, DPOTrainer

    logging.getLogger("trl").setLevel(logging.ERROR)
    backbone = TinyBackbone("llava", vocabulary=320, **SIDE).load(WORDS)  # type: ignore[arg-type]
    settings = {"report_to": [], "use_cpu": True, "bf16": False, "max_length": None, "gradient_checkpointing": False}
    arguments = DPOConfig(
        output_dir=str(tmp_path), per_device_train_batch_size=4, max_steps=2, logging_steps=1, learning_rate=1e-2,
        warmup_steps=0, save_strategy="no", disable_tqdm=True, **settings,
    )  # fmt: skip
    trainer = DPOTrainer(
        model=backbone.model, args=arguments, train_dataset=loaded["train"], processing_class=backbone.processor.processor,
        peft_config=peft.LoraConfig(r=2, target_modules=r".*language_model.*\.(q_proj|v_proj)"),
    )  # fmt: skip
    trainer.train()
    losses = [told["loss"] for told in trainer.state.log_history if "loss" in told]
    assert losses[0] == pytest.approx(math.log(2), abs=1e-5)
    assert losses[1] < losses[0]
    assert torch.isfinite(torch.tensor(losses)).all()


def test_a_longest_prompt_is_refused_as_nobody_counts_its_tokens(tmp_path):
    short = replace(TEMPLATE, max_prompt_tokens=100)
    with pytest.raises(ValueError, match="max_prompt_tokens: what fits is counted by a reader"):
        write_trl_dataset(made(), QUERIES, DOCUMENTS, short, open_image, tmp_path / "pairs")
