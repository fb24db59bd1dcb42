"""A reader that writes traces: a question and evidence in; what it keeps, an answer, a critique, a last answer out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from medrag_lightning.batches import AnswerRows, Example, ReaderBatch, ReaderPart
from medrag_lightning.interfaces import Reader
from medrag_lightning.mixture import log_softmax
from medrag_lightning.prompts import PromptTemplate
from medrag_lightning.reading.prompt_prefix import begun
from medrag_lightning.reading.raft_collator import answer_rows
from medrag_lightning.reading.trace_collator import TraceCollator, checked_template
from medrag_lightning.reading.trace_text import all_kept, before_answer, common_length
from medrag_lightning.records import Candidate, WrittenTrace, kept_faults, parse_trace

AnswerStep = Literal["initial", "final"]


@dataclass(frozen=True, slots=True)
class Traced:
    """What a reader wrote for an example.

    Attributes:
        example: as its prompt showed it.
        text: all that was written.
        written: the steps that could be read of it.
        faults: what is wrong with the text, and with what it keeps beside what was shown; empty for a trace as it should be.
    """

    example: Example
    text: str
    written: WrittenTrace
    faults: tuple[str, ...]

    @property
    def kept(self) -> tuple[Candidate, ...]:
        """The evidence that it keeps and that was shown, in its order; all that was shown where that step could not be read."""
        shown = self.example.candidates
        if self.written.kept is None:
            return shown
        return tuple(shown[one.number - 1] for one in self.written.kept if one.number <= len(shown))


class TraceWriter:
    """Writes whole traces, greedily, with all evidence in one prompt.

    Args:
        reader: its weights must be there when it writes, and the caller puts it to evaluation.
        template: the prompt template of its training.
        max_new_tokens: longest text; one that is cut off lacks its last steps.
    """

    def __init__(self, reader: Reader, template: PromptTemplate, max_new_tokens: int) -> None:
        if max_new_tokens < 1:
            raise ValueError(f"max_new_tokens must be at least 1, got {max_new_tokens}")
        self.reader, self.template, self.max_new_tokens = reader, checked_template(template), max_new_tokens

    @cached_property
    def collate(self) -> TraceCollator:
        """Examples to encoded prompts."""
        return TraceCollator(self.reader.processor, self.template, training=False)

    def identity(self) -> dict[str, Any]:
        """What written traces depend on, by name."""
        return {
            "reader": self.reader.fingerprint(),
            "template": self.template.fingerprint(),
            "max_new_tokens": self.max_new_tokens,
        }

    def write(self, examples: Sequence[Example]) -> list[Traced]:
        """A trace for each example, whose images are opened."""
        return self.read(self.collate(examples).to(self.device())) if examples else []

    def device(self) -> torch.device:
        """Where the reader's weights are."""
        if isinstance(self.reader, torch.nn.Module):
            return next((parameter.device for parameter in self.reader.parameters()), torch.device("cpu"))
        return torch.device("cpu")

    @torch.no_grad()
    def read(self, batch: ReaderBatch, rearranges: bool = True) -> list[Traced]:
        """One trace for each example of the batch, in order. Any text can be read: a bad one has `faults`.

        Args:
            batch: made by `collate`.
            rearranges: off, the reader is made to keep all evidence, whole and in its order, and writes what follows that.
        """
        found: dict[int, Traced] = {}
        for part in batch.parts:
            heads = ["" if rearranges else all_kept(batch.examples[place], self.template) for place in part.query_of_prompt]
            ids = [one[:-1] for one in self.reader.processor.encode_answers(heads)] if any(heads) else [[] for _ in heads]
            spoken = self.reader.generate(begun(part.prompts, ids), self.max_new_tokens)
            for place, head, told in zip(part.query_of_prompt, heads, spoken, strict=True):
                found[place] = self._traced(batch.examples[place], head + self.reader.processor.decode(told))
        return [found[place] for place in range(len(batch))]

    @torch.no_grad()
    def choices_logp(self, batch: ReaderBatch, traced: Sequence[Traced], step: AnswerStep) -> list[NDArray[np.float64] | None]:
        """How likely each choice is as the answer of a step, after the prompt and what was written before it.

        The answer's closing tag and the end of the turn count as part of it.

        Returns:
            For each example, log-probabilities in nats, normalised over its choices; None for an open question.
        """
        found: list[NDArray[np.float64] | None] = [None] * len(batch)
        for part in batch.parts:
            told = [(row, place) for row, place in enumerate(part.query_of_prompt) if batch.examples[place].query.choices]
            texts = [
                (row, f"{before_answer(traced[place].text, step)}{choice}</{step}>")
                for row, place in told
                for choice in batch.examples[place].query.choices
            ]
            if texts:
                sums = _sums(self.reader, part, answer_rows(self.reader.processor, texts))
                found_here = {row: log_softmax(sums_C[None], axis=1)[0] for row, sums_C in sums.items()}
                for row, place in told:
                    found[place] = found_here[row]
        return found

    def _traced(self, example: Example, text: str) -> Traced:
        written = parse_trace(text)
        faults = written.faults
        if written.kept is not None:
            images = [self.template.show_evidence_images and one.document.image is not None for one in example.candidates]
            faults = (*faults, *kept_faults(written.kept, [one.document.text for one in example.candidates], images))
        return Traced(example, text, written, faults)


def _sums(reader: Reader, part: ReaderPart, rows: AnswerRows) -> dict[int, NDArray[np.float64]]:
    """The sum of log-probabilities in nats of each row of a prompt, from where the rows of that prompt differ, by prompt."""
    placed = rows.to(part.prompts.ids_PT.device)
    logp_RL = reader.token_logp(part.prompts, placed).double().cpu()
    found: dict[int, NDArray[np.float64]] = {}
    of_row_R = rows.prompt_of_row_R
    for prompt in sorted(set(of_row_R.tolist())):
        mine_R = of_row_R == prompt
        ids = [row[mask].tolist() for row, mask in zip(rows.ids_RL[mine_R], rows.mask_RL[mine_R], strict=True)]
        found[prompt] = logp_RL[mine_R][:, common_length(ids) :].sum(dim=1).numpy()
    return found
