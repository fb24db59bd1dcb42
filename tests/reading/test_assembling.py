"""Golden prompts of several kinds of evidence, and what is left out of too long a one: never the question or its image."""

from dataclasses import replace

import pytest
from PIL import Image

from medrag_lightning.batches import Example, Prompt, Role, Segment
from medrag_lightning.mixture import Fusion
from medrag_lightning.models.hf_reader import HfReader
from medrag_lightning.models.tiny import TinyBackbone
from medrag_lightning.prompts import PromptTemplate
from medrag_lightning.reading.assembling import assembled
from medrag_lightning.reading.batch_reader import BatchReader
from medrag_lightning.reading.raft_collator import RaftCollator
from medrag_lightning.records import AnswerType, Candidate, Channel, Document, ImageRef, Query, Regime

PICTURE = Image.new("RGB", (4, 4))
HETERO = PromptTemplate(
    order="image_first",
    kinds="documents_first",
    evidence_prefix="[{number}] ",
    documents_heading="Retrieved contents:",
    reports_heading="Reference reports (for comparison only):",
    closing="Answer from the contents. Reply with the option letter only.",
    list_choices=True,
)
KINDS = "rrrwwb"  # three reports, two of the wiki, one of a book, as a CorpusSearch with reports first would find them


class Words:
    """Counts words, and 10 for an image."""

    def prompt_length(self, prompt: Prompt) -> int:
        return sum(10 if s.image is not None else len(s.text.split()) for s in prompt.segments)


def candidate(number: int, kind: str) -> Candidate:
    name = {"r": "", "w": "wiki", "b": "book"}[kind]
    image = ImageRef(f"{number}.png") if kind == "r" else None
    return Candidate(Document(f"{kind}{number}", f"text {number}", image, source=name), 1 - number / 10, Channel.GIVEN)


def example(kinds: str = KINDS, images: bool = True) -> Example:
    found = tuple(candidate(number, kind) for number, kind in enumerate(kinds))
    query = Query("q", "edema?", ImageRef("q.png"), "no", ("yes", "no"), AnswerType.CLOSED)
    shown = tuple(PICTURE if images and one.document.image else None for one in found)
    return Example(query, Regime.RETRIEVED, found, PICTURE, shown)


def ids(one: Example) -> list[str]:
    return [found.id for found in one.candidates]


def words(prompt: Prompt) -> str:
    return "".join(segment.text or "<image>" for segment in prompt.segments)


def test_golden_prompt_of_heterorag():
    one = assembled(example(), replace(HETERO, show_evidence_images=False), Words())
    assert ids(one) == ["w3", "w4", "b5", "r0", "r1", "r2"]
    assert words(replace(HETERO, show_evidence_images=False).build(one)) == (
        "<image>Retrieved contents:\n[1] text 3\n\n[2] text 4\n\n[3] text 5\n\n"
        "Reference reports (for comparison only):\n[4] text 0\n\n[5] text 1\n\n[6] text 2\n\n"
        "edema?\noptions: yes, no\nAnswer from the contents. Reply with the option letter only."
    )


def test_golden_prompt_with_report_images_and_marks():
    template = replace(HETERO, kinds="reports_first", delimit_evidence=True, closing="")
    prompt = template.build(assembled(example("wr"), template, Words()))
    assert words(prompt) == (
        "<image>Reference reports (for comparison only):\n<evidence 1>\n<image>[1] text 1\n</evidence 1>\n\n"
        "Retrieved contents:\n<evidence 2>\n[2] text 0\n</evidence 2>\n\nedema?\noptions: yes, no"
    )
    roles = [segment.role for segment in prompt.segments]
    assert roles[:2] == [Role.QUERY_IMAGE, Role.INSTRUCTION]
    assert roles[-1] is Role.QUESTION


def test_golden_prompt_without_one_kind_and_without_evidence():
    assert words(HETERO.build(example("w"))).startswith("<image>Retrieved contents:\n[1] text 0\n\nedema?")
    assert words(HETERO.build(example(""))) == (
        "<image>edema?\noptions: yes, no\nAnswer from the contents. Reply with the option letter only."
    )


@pytest.mark.parametrize(("order", "last"), [("evidence_first", "edema?\nbe brief"), ("query_first", "\nanswer:\nbe brief")])
def test_a_closing_stands_last_in_every_order(order, last):
    prompt = PromptTemplate(order=order, closing="be brief").build(example("w"))
    assert words(prompt).endswith(last)
    assert prompt.segments[-1] == Segment(Role.INSTRUCTION, "\nbe brief")


def test_building_orders_kinds_itself_and_numbers_go_by_the_order():
    texts = [s.text for s in HETERO.build(example("rw")).segments if s.role is Role.EVIDENCE_TEXT]
    assert texts == ["[1] text 1\n\n", "[2] text 0\n\n"]


def length(one: Example, template: PromptTemplate) -> int:
    return Words().prompt_length(template.build(one))


def test_the_lowest_ranked_goes_first_then_the_next_never_the_question():
    whole = assembled(example(), HETERO, Words())
    order = ["r2", "r1", "w4", "r0", "b5", "w3"]  # third of the reports, seconds, firsts; of equal ranks the last in the prompt
    full, seen = length(whole, HETERO), []
    for room in range(full, length(example(""), HETERO) - 1, -1):
        template = replace(HETERO, max_prompt_tokens=room)
        one = assembled(example(), template, Words())
        assert length(one, template) <= room
        assert list(one.dropped) == order[: len(one.dropped)]
        assert ids(one) == [name for name in ids(whole) if name not in one.dropped]
        if one.dropped:  # and no more than need be
            kept_one_more = [*one.candidates, next(c for c in whole.candidates if c.id == one.dropped[-1])]
            more = replace(one, candidates=tuple(kept_one_more), candidate_images=(*one.candidate_images, PICTURE))
            if one.dropped[-1].startswith("r"):
                assert length(more, template) > room
        text = words(template.build(one))
        assert "edema?\noptions: yes, no\n" in text
        assert text.startswith("<image>")
        assert assembled(one, template, Words()) == one
        seen.append(len(one.dropped))
    assert seen == sorted(seen)
    assert set(seen) == set(range(7))


def test_as_found_the_last_candidate_goes_first():
    template = PromptTemplate(show_evidence_images=False, max_prompt_tokens=10 + 1 + 3 * 3)
    one = assembled(example(), template, Words())
    assert ids(one) == ["r0", "r1", "r2"]
    assert one.dropped == ("b5", "w4", "w3")
    assert len(one.candidate_images) == 3


def test_a_question_that_is_too_long_is_refused_with_a_remedy():
    with pytest.raises(ValueError, match=r"query 'q': question and image alone take 11 tokens, more than max_prompt_tokens 10"):
        assembled(example(), PromptTemplate(max_prompt_tokens=10), Words())
    with pytest.raises(ValueError, match="alone take 11"):
        assembled(example(), PromptTemplate(max_prompt_tokens=10), Words(), one_per_prompt=True)
    assert assembled(example(""), PromptTemplate(max_prompt_tokens=11), Words()).candidates == ()


def test_one_candidate_a_prompt_keeps_its_order_and_drops_what_has_no_room():
    one = assembled(example(), replace(HETERO, closing="", max_prompt_tokens=25), Words(), one_per_prompt=True)
    assert ids(one) == ["w3", "w4", "b5"]
    assert one.dropped == ("r2", "r1", "r0")
    assert ids(assembled(example(), HETERO, Words(), one_per_prompt=True)) == ids(example())


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"documents_heading": "x"}, "kinds is as_found"),
        ({"reports_heading": "x"}, "kinds is"),
        ({"max_prompt_tokens": 0}, "at least 1"),
    ],
)
def test_settings_that_would_be_ignored(settings, told):
    with pytest.raises(ValueError, match=told):
        PromptTemplate(**settings)


def test_every_new_setting_is_in_the_fingerprint_and_none_by_default():
    before = "6a5cb82d937d279faa521433392eed0899e81b32a4e17fb3b01cff836064ae55"
    changed = [{"kinds": "documents_first"}, {"closing": "x"}, {"max_prompt_tokens": 9}, {"order": "image_first"}]
    changed += [{"kinds": "documents_first", name: "x"} for name in ("documents_heading", "reports_heading")]
    assert len({before, *(PromptTemplate(**one).fingerprint() for one in changed)}) == 7


def test_what_the_reader_is_shown_is_what_a_prediction_may_cite():
    made = HfReader(TinyBackbone(hidden=32, layers=2, heads=2, vision_hidden=16, image_side_px=32, vocabulary=320))
    made.prepare(["edema? yes no", "text 1 2 3"])
    template = replace(HETERO, show_evidence_images=False, kinds="documents_first")
    room = made.processor.prompt_length(template.build(assembled(example(), template, made.processor))) - 1
    template = replace(template, max_prompt_tokens=room)
    batch = RaftCollator(made.processor, template, one_candidate_per_prompt=False, training=False)([example(), example("w")])
    assert int(batch.parts[0].prompts.mask_PT.sum(1).max()) <= room
    assert [ids(one) for one in batch.examples] == [["w3", "w4", "b5", "r0", "r1"], ["w0"]]
    assert [one.dropped for one in batch.examples] == [("r2",), ()]

    first, second = (one.prediction for one in BatchReader(made, 4, Fusion(), "scored").read(batch))
    assert (first.cited, first.dropped) == (("w3", "w4", "b5", "r0", "r1"), ("r2",))
    assert (second.cited, second.dropped) == (("w0",), ())
