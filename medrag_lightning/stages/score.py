"""Stage `score`: how likely a frozen reader finds each answer under each condition; `predict` only.

Closed questions: the log-probability of every choice (JOMED Section 3.2 reads its teacher off these). Open questions: that of
the gold answer. `callbacks.ScoreWriter` keeps the rows; they are computed once, and later stages read them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import lightning as L

from medrag_lightning import metrics, records
from medrag_lightning.batches import Example, ReaderBatch, ReaderPart
from medrag_lightning.interfaces import Feed, Reader
from medrag_lightning.prompts import PromptTemplate
from medrag_lightning.reading.raft_collator import RaftCollator
from medrag_lightning.records import AnswerType
from medrag_lightning.stages.frozen_reader import load_reader

Generate = Literal["none", "open", "all"]
"""Which questions the reader also answers in its own words."""


@dataclass(slots=True)
class _Row:
    """What was read for one example."""

    logps: list[float] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    words: str | None = None


class Score(L.LightningModule):
    """Scores conditions with a frozen reader. It trains nothing; other verbs are refused.

    Args:
        reader: the vision-language model.
        template: how a prompt is built; all evidence of a condition stands in one prompt.
        generate: which questions are also answered in the reader's own words (slow; open questions are right or wrong by
            them alone).
        max_new_tokens: longest answer in its own words; only where something is generated.
        init_from: checkpoint of stage `reader_raft` or `reader_preference`; null scores with the reader as it is.
        allow_prompt_change: accepts a checkpoint that was trained with another template.
    """

    stage_name = "score"

    def __init__(
        self,
        reader: Reader,
        template: PromptTemplate = PromptTemplate(),  # noqa: B008  (frozen)
        generate: Generate = "none",
        max_new_tokens: int = 16,
        init_from: str | None = None,
        allow_prompt_change: bool = False,
    ) -> None:
        super().__init__()
        if max_new_tokens < 1:
            raise ValueError(f"max_new_tokens must be at least 1, got {max_new_tokens}")
        self.reader, self.template, self.generate, self.max_new_tokens = reader, template, generate, max_new_tokens
        self.init_from, self.allow_prompt_change = init_from, allow_prompt_change
        self._prepared = False

    @property
    def feed(self) -> Feed:
        """(query, condition) examples, those that the table lacks."""
        return "scoring"

    def collator(self, training: bool) -> Callable[[Sequence[Example]], ReaderBatch]:
        """Examples to encoded parts, with every answer to be scored."""
        return RaftCollator(self.reader.processor, self.template, one_candidate_per_prompt=False, training=False)

    def setup(self, stage: str) -> None:
        """Refuses other verbs."""
        if stage != "predict":
            raise ValueError(f"the scoring stage only predicts; `{stage}` was asked of it")

    def configure_model(self) -> None:
        """Builds or loads the reader, once, with the weights of `init_from`."""
        if self._prepared:
            return
        self._prepared = True
        if self.init_from is None:
            self.reader.prepare(self.trainer.datamodule.training_texts())  # type: ignore[attr-defined]
            return
        load_reader(self, self.reader, self.init_from, None if self.allow_prompt_change else self.template)

    def identity(self) -> dict[str, Any]:
        """What the scores depend on, by name (`score_files.check_identity`)."""
        return {
            "reader": self.reader.fingerprint(),
            "template": self.template.fingerprint(),
            "generate": self.generate,
            "max_new_tokens": None if self.generate == "none" else self.max_new_tokens,
        }

    def predict_step(self, batch: ReaderBatch, batch_idx: int, dataloader_idx: int = 0) -> list[records.Score]:
        """One score for each example of the batch, in order."""
        rows = [_Row() for _ in batch.examples]
        for part in batch.parts:
            self._read(part, batch.examples, rows)
        return [_score(example, row) for example, row in zip(batch.examples, rows, strict=True)]

    def _read(self, part: ReaderPart, examples: Sequence[Example], rows: list[_Row]) -> None:
        if part.rows is not None:
            total_R = self.reader.token_logp(part.prompts, part.rows).double().sum(dim=1).tolist()
            count_R = part.rows.mask_RL.sum(dim=1).tolist()
            for prompt, total, count in zip(part.rows.prompt_of_row_R.tolist(), total_R, count_R, strict=True):
                row = rows[part.query_of_prompt[prompt]]
                row.logps.append(total)
                row.counts.append(count)
        kinds = {examples[place].query.answer_type for place in part.query_of_prompt}
        if self.generate == "all" or (self.generate == "open" and AnswerType.OPEN in kinds):
            spoken = self.reader.generate(part.prompts, self.max_new_tokens)
            for place, ids in zip(part.query_of_prompt, spoken, strict=True):
                rows[place].words = self.reader.processor.decode(ids)


def _score(example: Example, row: _Row) -> records.Score:
    query, condition = example.query, example.condition
    assert condition is not None, "the scoring feed names the condition of every example"
    closed = query.answer_type is AnswerType.CLOSED
    answers = query.choices if closed else (str(query.answer),)
    if len(row.logps) != len(answers) or any(math.isnan(logp) for logp in row.logps):
        raise ValueError(
            f"query {query.id!r} with evidence {list(condition.evidence_ids)}: the reader gives {row.logps} for the answers "
            f"{list(answers)}; check its weights and precision"
        )
    return records.Score(
        query_id=query.id,
        condition=condition,
        answers=answers,
        logp_nats=tuple(row.logps),
        token_counts=tuple(row.counts),
        gold_index=query.gold_index if closed else 0,
        generated=row.words,
        correct=_correct(query, row),
    )


def _correct(query: records.Query, row: _Row) -> bool | None:
    """Closed: whether the most likely choice is the gold one. Open: whether the words equal the gold answer, normalised."""
    if query.answer is None:
        return None
    if query.answer_type is AnswerType.CLOSED:
        return row.logps.index(max(row.logps)) == query.gold_index
    return None if row.words is None else bool(metrics.exact_match([query.answer], [row.words or None])[0])
