"""What is wrong with a row that a parser refused, as a `Finding` that quotes none of the row's values."""

from __future__ import annotations

import re
from dataclasses import dataclass

from medrag_lightning.data.audit.findings import Finding


@dataclass(frozen=True, slots=True)
class RowKind:
    """A kind of fault: how its message is known, the sentence that tells it (with the pattern's groups), and the remedy."""

    kind: str
    pattern: re.Pattern[str]
    what: str
    remedy: str


def _kind(kind: str, pattern: str, what: str, remedy: str) -> RowKind:
    return RowKind(kind, re.compile(pattern, re.DOTALL), what, remedy)


_FILL = "fill it in, or remove the row"
_SAVE = "save the file as UTF-8 (iconv -f WINDOWS-1252 -t UTF-8 FILE, where it comes from Windows)"
KINDS = (
    _kind(
        "id_repeated",
        r"was already used at (?P<at>.+); ids must be unique",
        "the id was already used at {at}",
        "give every row an id of its own; remove the row where it is a copy",
    ),
    _kind(
        "answer_outside_choices",
        r"answer .* is not one of its choices",
        "the answer is not one of the row's choices",
        "spell the answer as in the choices (capitals and spaces count), or add it to them",
    ),
    _kind(
        "choices_missing",
        r"a closed question needs at least two choices, got (?P<got>\(\)|\()",
        "a closed question has fewer than two choices",
        "list the choices, or set answer_type to open",
    ),
    _kind("choices_repeat", r"choices repeat", "the choices repeat", "list every choice once"),
    _kind(
        "choices_unused",
        r"an open question has no choices",
        "an open question has choices",
        "remove the choices, or set answer_type to closed",
    ),
    _kind("text_empty", r"key '(?P<key>\w+)' is empty", "key '{key}' is empty", _FILL),
    _kind("text_empty", r"has neither text nor image", "the row has neither text nor image", _FILL),
    _kind("text_empty", r"a message is empty", "a message is empty", _FILL),
    _kind(
        "key_misspelt",
        r"unknown key '(?P<key>[^']+)'; did you mean '(?P<near>\w+)'",
        "unknown key '{key}', which looks like '{near}'",
        "rename the key in the file, or map it in the config: fields: {OURS: THEIRS}",
    ),
    _kind(
        "key_missing",
        r"key '(?P<key>\w+)' (?:\([^)]*\) )?is missing",
        "key '{key}' is missing",
        "add the key, or map it in the config: fields: {OURS: THEIRS}",
    ),
    _kind(
        "key_missing",
        r"fields maps '(?P<key>\w+)' to",
        "the row lacks the key that fields maps '{key}' to",
        "correct fields in the config, or add the key to the row",
    ),
    _kind("not_utf8", r"not UTF-8", "the line is not UTF-8", _SAVE),
    _kind("row_broken", r"not valid JSON: (?P<why>[\w' ]+)", "not valid JSON: {why}", "mend or remove the line"),
    _kind("row_broken", r"expected a JSON object, got a (?P<got>\w+)", "a {got} where a JSON object must be", "mend the line"),
    _kind("row_broken", r"occurs more than once in one object", "a key occurs twice in one object", "keep one of the two"),
    _kind(
        "row_broken",
        r"(?P<n>\d+) cells, but there are (?P<of>\d+) columns",
        "{n} cells where the header has {of} columns",
        "quote cells that hold the delimiter or a line break, or mend the header",
    ),
    _kind("row_broken", r"not a valid table", "the table cannot be read on from here", "look for a quote that is not closed"),
    _kind(
        "split_unknown",
        r"^'?(?:key )?'?[\w ']+'? is '.*'; expected one of (?P<known>train[\w, ]+)",
        "the split has an unknown name",
        "name it train, val or test",
    ),
    _kind(
        "split_contradicts",
        r"the row says split",
        "the row names another split than its table",
        "remove one of the two",
    ),
    _kind(
        "split_not_chosen",
        r"the row carries split .* say which splits",
        "the rows carry splits, and the config does not say which of them are evidence",
        "set splits: [train] for this table (evaluation items as evidence would be a leak)",
    ),
    _kind("image_outside", r"is a URL", "the image is a URL", "download the image, and name the file"),
    _kind(
        "image_outside",
        r"lies outside the image folder",
        "the image lies outside the image folder",
        "name it relative to image_root, or set another image_root",
    ),
    _kind("image_missing", r"is not there: no file", "there is no such image file", "copy the file there, or remove the row"),
    _kind(
        "label_unknown", r"class_names has", "the label is none of class_names", "correct the label, or add it to class_names"
    ),
    _kind("label_unknown", r"is not in 0\.\.(?P<top>\d+)", "the label is not in 0..{top}", "correct it, or name all classes"),
    _kind("report_missing", r"there is no report", "there is no report for the row", "set reports_root, or remove the row"),
    _kind("not_utf8", r"^report .* is not UTF-8", "the report is not UTF-8", _SAVE),
)


def row_finding(fault: str) -> Finding:
    """A finding from ``file:line: what``."""
    where, message = _parted(fault)
    for known in KINDS:
        if match := known.pattern.search(message):
            return Finding(known.kind, "error", where, known.what.format(**match.groupdict()), known.remedy)
    return Finding("row_refused", "error", where, without_values(message), "correct the row, or remove it")


def without_values(message: str) -> str:
    """A parser's message without what it quotes of the row: only names of keys stay."""
    text = re.sub(r" holds .*?, a (\w+);", r" holds a \1;", message, flags=re.DOTALL)
    text = re.sub(r"(?<!key )(?<!column )(?<![\w])'[^']*'?", "'...'", text)
    text = re.sub(r"(?<![\w.])/[^\s,;]+", "(a file)", text)
    return " ".join(text.split())[:300]


def _parted(fault: str) -> tuple[str, str]:
    """Place and message."""
    match = re.match(r"(?P<where>.+?(?::\d+|\.npz(?:#\w+/\d+)?)): (?P<what>.*)", fault, re.DOTALL)
    return (match["where"], match["what"]) if match else ("", fault)
