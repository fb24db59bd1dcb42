"""What is wrong with questions and documents taken together: repeated ids, splits, classes, answers, damaged text."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Iterator, Sequence
from typing import cast

from medrag_lightning.data.audit.findings import Finding
from medrag_lightning.data.audit.table_reading import Placed
from medrag_lightning.data.rows import shorten
from medrag_lightning.records import AnswerType, Document, Query, Split

TINY_TRAIN, TINY_EVAL = 50, 100
FEW = 20  # answers of one group, below which "always the same" says nothing
SHOWN_PLACES = 3
_MOJIBAKE = re.compile("Ã[\u0080-¿]|â€|Â[\u00a0-¿]|ï»¿")
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


def id_findings(placed: Sequence[Placed], setting: str) -> list[Finding]:
    """Ids that two tables of one setting share; within a table, its parser refuses them."""
    first: dict[str, str] = {}
    findings = []
    for one in placed:
        if one.id in first:
            what = f"the id was already used at {first[one.id]}, in another table of {setting}"
            remedy = "make the ids of all tables differ (the settings dataset and flag put a name before them)"
            findings.append(Finding("id_repeated", "error", one.where, what, remedy))
        else:
            first[one.id] = one.where
    return findings


def text_findings(placed: Iterable[Placed]) -> Iterator[Finding]:
    """Text that was damaged before it came here: lost letters, letters decoded twice, control characters."""
    for one in placed:
        text = _text(one.record)
        if "\ufffd" in text:
            what = "the text holds U+FFFD, which stands where letters were lost"
            yield Finding("text_damaged", "warning", one.where, what, "export it again from its source, as UTF-8")
        elif _MOJIBAKE.search(text):
            what = "the text holds letters that were decoded twice (such as \u00c3\u00a4 for \u00e4)"
            yield Finding("text_damaged", "warning", one.where, what, "export it again from its source, as UTF-8")
        if _CONTROL.search(text):
            what = "the text holds control characters"
            yield Finding("control_characters", "warning", one.where, what, "remove them: a tokenizer makes odd tokens of them")


def split_findings(placed: Sequence[Placed]) -> Iterator[Finding]:
    """Splits without or with few questions, and questions without an answer."""
    of_split: dict[Split, list[Placed]] = {split: [] for split in Split}
    for one in placed:
        of_split[_query(one).split].append(one)
    for split, mine in of_split.items():
        where, count = f"split {split}", sum(_query(one).answer is not None for one in mine)
        unanswered = [one.where for one in mine if _query(one).answer is None]
        if not count:
            severity = "error" if split is Split.TRAIN else "warning"
            held = f"holds {len(mine)} questions, none of them answered" if mine else "is empty"
            remedy = "set apart some patients for it; without it there is nothing to " + (
                "learn from" if split is Split.TRAIN else "choose checkpoints by" if split is Split.VAL else "report"
            )
            yield Finding("split_empty", severity, where, f"the split {split} {held}", remedy)  # type: ignore[arg-type]
        elif count < (TINY_TRAIN if split is Split.TRAIN else TINY_EVAL):
            what = f"the split {split} has only {count} answered questions"
            if split is not Split.TRAIN:
                what += f": an accuracy of 50 % would be known to +- {98 / math.sqrt(count):.0f} points"
            yield Finding(
                "split_tiny", "warning", where, what, "add questions, or report the interval and mistrust differences"
            )
        if unanswered and count:
            what = f"{len(unanswered)} of {len(mine)} questions of the split {split} have no answer, first at {unanswered[0]}"
            yield Finding("answer_missing", "warning", where, what, "they are left out of training and metrics: answer them")


def answer_findings(placed: Sequence[Placed]) -> Iterator[Finding]:
    """Classes that training never shows, and answers that are always the same."""
    groups: dict[tuple[str, ...], dict[Split, Counter[str]]] = defaultdict(lambda: defaultdict(Counter))
    for one in placed:
        query = _query(one)
        if query.answer is not None:
            groups[query.choices][query.split][query.answer] += 1
    for choices, counts in groups.items():
        name = f"questions with {len(choices)} choices" if choices else "open questions"
        trained = counts.get(Split.TRAIN, Counter())
        for split in (Split.VAL, Split.TEST) if choices and sum(trained.values()) >= FEW else ():
            for answer in sorted(set(counts.get(split, ())) - set(trained), key=choices.index):
                what = f"{shorten(answer)} is the answer of {counts[split][answer]} questions of {split}, and of none of train"
                yield Finding(
                    "class_not_in_train", "warning", f"split {split}", what, "split anew so that train has every class"
                )
        for split, found in counts.items():
            if len(found) == 1 and found.total() >= FEW:
                what = f"all {found.total()} {name} of the split {split} have the same answer"
                remedy = "look at the answers: a model that never looks is always right here"
                yield Finding("answer_constant", "warning", f"split {split}", what, remedy)


def repeat_findings(placed: Sequence[Placed]) -> Iterator[Finding]:
    """Questions that are asked twice in one split: with one answer, or with answers that contradict each other."""
    asked: dict[Hashable, list[Placed]] = defaultdict(list)
    for one in placed:
        query = _query(one)
        if query.answer is not None and query.image is not None:
            asked[query.split, query.image, query.history, " ".join(query.question.casefold().split())].append(one)
    for same in asked.values():
        if len(same) > 1:
            places = _places(same)
            answers = {(_query(one).answer or "").casefold() for one in same}
            closed = all(_query(one).answer_type is AnswerType.CLOSED for one in same)
            if len(answers) == 1:
                what = f"the same question about the same image with the same answer stands {len(same)} times: {places}"
                yield Finding("question_repeated", "note", same[0].where, what, "keep one, unless it is meant to weigh more")
            elif closed:
                what = f"the same question about the same image has different answers: {places}"
                yield Finding("answers_conflict", "warning", same[0].where, what, "find out which is right, and keep that row")


def reuse_findings(placed: Sequence[Placed], what_of: str) -> list[Finding]:
    """A note about images that stand behind many rows."""
    rows = Counter(one.image for one in placed if one.image is not None)
    many = {image: count for image, count in rows.items() if count > 1}
    if not many:
        return []
    most = max(many, key=lambda image: many[image])
    first = next(one.where for one in placed if one.image == most)
    what = f"{len(many)} of {len(rows)} images stand behind several {what_of} ({sum(many.values())}); one behind {many[most]}"
    remedy = "nothing, where they are meant to; such rows are not independent, so intervals go by patient, study or image"
    return [Finding("image_reused", "note", first, what, remedy)]


def _places(same: Sequence[Placed]) -> str:
    shown = ", ".join(one.where for one in same[:SHOWN_PLACES])
    return shown + (f" and {len(same) - SHOWN_PLACES} more" if len(same) > SHOWN_PLACES else "")


def _text(record: Query | Document) -> str:
    if isinstance(record, Document):
        return record.text
    return "\n".join([record.question, record.answer or "", *record.choices])


def _query(one: Placed) -> Query:
    return cast(Query, one.record)
