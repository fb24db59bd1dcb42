"""`images` + `messages` rows, as LLaMA-Factory and ms-swift users have them, and ShareGPT's `conversations`."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import Any, Literal

from medrag_lightning.data.dialogues import turns as turns_of
from medrag_lightning.data.row_files import read_rows
from medrag_lightning.data.rows import Row, as_text, parse_rows, shorten
from medrag_lightning.data.tables.answers import answered_documents, closed_answer
from medrag_lightning.data.tables.image_folder import ImageFolder
from medrag_lightning.data.tables.our_jsonl import EVIDENCE_TEXT, scoped
from medrag_lightning.records import AnswerType, Document, Query, Split

ROLES = {"system": "system", "user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant"}
PLACEHOLDER = "<image>"


class MessagesRows:
    """Chat rows in JSONL, JSON or parquet.

    A row has `messages` (``role``, ``content``) or `conversations` (``from``, ``value``), and `images` (a list of files, or of
    objects with ``path``) or `image` (one file). The user's text without its ``<image>`` mark is the question, the assistant's
    reply the answer. A reply of yes or no makes a closed question, any other an open one. A system message is left out: the
    prompt template is set for the whole run. `patient_id`, `study_id` and `id` are used where a row has them.

    With `turns: history` turn t of a dialogue is a question with the turns before it as its history, as they stand in the file,
    in tests too: not what a reader would have said. No later turn is in its history, and none is evidence for it: where a row
    has no patient, study or image that its turns share, the dialogue itself is their study.

    Refused, because the row would be trained on as something else: several images, videos or audio, a number of marks that
    does not fit the images, roles that do not alternate, and several turns unless `turns` says ``split``.

    Args:
        train, val, test: the file of each split; at least one.
        image_root: the folder that image names are relative to; absolute names must lie under it.
        turns: ``refuse`` rows of several turns, or make each turn a question: that does not see the others (``split``), or that
            has the turns before it as its history (``history``).
        dataset: put before ids.
        evidence_text: what a document says; ``{question}`` and ``{answer}`` are filled in.
        check_images: whether missing image files are errors when the table is read.
    """

    def __init__(
        self,
        image_root: str,
        train: str | None = None,
        val: str | None = None,
        test: str | None = None,
        turns: Literal["refuse", "split", "history"] = "refuse",
        dataset: str = "messages",
        evidence_text: str = EVIDENCE_TEXT,
        check_images: bool = True,
    ) -> None:
        named = ((train, Split.TRAIN), (val, Split.VAL), (test, Split.TEST))
        self.files = {Path(file).expanduser(): split for file, split in named if file is not None}
        if not self.files:
            raise ValueError("give at least one of train, val and test")
        if len(self.files) < sum(file is not None for file, _ in named):
            raise ValueError("one file is named for two splits; every split needs a file of its own")
        self.turns, self.dataset, self.evidence_text = turns, dataset, evidence_text
        self.images = ImageFolder.at(image_root, check_images)
        self._queries: list[Query] | None = None

    def queries(self) -> list[Query]:
        """One question a turn, train before val before test, in file order."""
        if self._queries is None:
            rows = chain.from_iterable(read_rows(path) for path in self.files)
            self._queries = parse_rows(rows, self._parse, type(self).__name__)
        return list(self._queries)

    def documents(self) -> list[Document]:
        """The training questions with their answers and images."""
        return answered_documents(self.queries(), self.evidence_text)

    def roots(self) -> list[Path]:
        """The image folder."""
        return [self.images.root]

    def _parse(self, row: Row) -> list[Query]:
        split, pairs = self.files[row.path], _pairs(row)
        if len(pairs) > 1 and self.turns == "refuse":
            told = "turns: split makes each a question that does not see the others, turns: history that sees those before it"
            raise ValueError(f"{len(pairs)} turns; {told}")
        image = self._image(row, sum(question.count(PLACEHOLDER) for question, _ in pairs))
        base = row.text_or_none("id") or f"{split}-{row.line}"
        patient, study = row.text_or_none("patient_id"), row.text_or_none("study_id")
        if len(pairs) > 1 and patient is None and study is None and image is None:
            study = f"dialogue {base}"  # else a turn could find a later one as evidence
        said = [(" ".join(question.replace(PLACEHOLDER, " ").split()), reply) for question, reply in pairs]
        queries = []
        for turn, (history, question, reply) in enumerate(turns_of(said)):
            choices, answer = closed_answer(question, reply, marked_closed=False)
            queries.append(
                Query(
                    id=f"{self.dataset}-{base}" + (f"-{turn}" if len(pairs) > 1 else ""),
                    question=question,
                    image=image,
                    answer=answer,
                    choices=choices,
                    answer_type=AnswerType.CLOSED if choices else AnswerType.OPEN,
                    split=split,
                    patient_id=scoped(self.dataset, patient),
                    study_id=scoped(self.dataset, study),
                    source=self.dataset,
                    history=history if self.turns == "history" else (),
                )
            )
        return queries

    def _image(self, row: Row, marks: int) -> Any:
        for key in ("videos", "video", "audios", "audio"):
            if row.values.get(key):
                raise ValueError(f"key {key!r} is set; only images are read")
        held = row.values.get("images") or ([row.values["image"]] if row.values.get("image") else [])
        if not isinstance(held, list):
            held = [held]
        if len(held) > 1:
            raise ValueError(f"{len(held)} images; a question here has one. Make a row for each, or join them into one image")
        if marks > len(held) or (marks and not held):
            raise ValueError(f"{marks} {PLACEHOLDER} marks, but {len(held)} images")
        if not held:
            return None
        item = held[0]
        if isinstance(item, dict):
            if not item.get("path"):
                raise ValueError("the image has no path; extract the image to a file and name it")
            item = item["path"]
        return self.images.ref(as_text("images", item))


def _pairs(row: Row) -> list[tuple[str, str]]:
    """The (user, assistant) texts of a row."""
    key = "messages" if "messages" in row.values else "conversations"
    turns = row.values.get(key)
    if not isinstance(turns, list) or not turns:
        raise ValueError("key 'messages' (or 'conversations') is missing or empty; expected a list of messages")
    said = [_message(turn) for turn in turns]
    if said[0][0] == "system":
        said = said[1:]
    roles = [role for role, _ in said]
    if not said or roles != ["user", "assistant"] * (len(said) // 2):
        raise ValueError(f"roles must alternate user, assistant and end with assistant, got {shorten(roles)}")
    pairs = [(said[n][1], said[n + 1][1]) for n in range(0, len(said), 2)]
    for question, reply in pairs:
        if not question.replace(PLACEHOLDER, "").strip() or not reply:
            raise ValueError("a message is empty")
        if PLACEHOLDER in reply:
            raise ValueError(f"the assistant's reply holds {PLACEHOLDER}; only the user shows images")
    return pairs


def _message(turn: Any) -> tuple[str, str]:
    if not isinstance(turn, dict):
        raise ValueError(f"a message is {shorten(turn)}; expected an object with role and content")
    role, content = turn.get("role", turn.get("from")), turn.get("content", turn.get("value"))
    if role not in ROLES:
        raise ValueError(f"unknown role {role!r}; expected {', '.join(ROLES)}")
    if isinstance(content, list):
        raise ValueError("the content is a list of parts; write it as one text with <image> marks and put the files in images")
    return ROLES[role], as_text("content", content)
