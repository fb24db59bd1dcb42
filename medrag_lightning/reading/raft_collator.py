"""Examples to reader batches: the collator of stage `reader_raft`, picklable, run in loader workers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

import torch

from medrag_lightning.batches import (
    AnswerRows,
    Example,
    Prompt,
    ReaderBatch,
    ReaderPart,
    Role,
    Segment,
    Steering,
    split_by_length,
)
from medrag_lightning.interfaces import Processor
from medrag_lightning.prompts import PromptTemplate
from medrag_lightning.reading.assembling import assembled
from medrag_lightning.records import ABLATED, AnswerType

EvidenceLayout = Literal["one_per_prompt", "all_in_one_prompt"]
"""`one_per_prompt`: K prompts a query, mixed afterwards (JOMED). `all_in_one_prompt`: one prompt with K candidates."""


class RaftCollator:
    """Builds prompts and the answers that follow them.

    Training: one prompt an example, followed by its gold answer. Evaluation: one prompt a candidate (or one with all of
    them), each followed by every choice of a closed question, or by the gold answer of an open one; and images that several
    prompts show are prepared once.

    Args:
        processor: the reader's.
        template: the prompt template.
        one_candidate_per_prompt: JOMED's layout.
        training: which of the two.
        roles: whether prompts tell which of their tokens is what.
        steering: how prompts are steered, by `Example.system`; a prompt without evidence never is.
    """

    def __init__(
        self,
        processor: Processor,
        template: PromptTemplate,
        one_candidate_per_prompt: bool,
        training: bool,
        roles: bool = False,
        steering: Mapping[str, Steering] | None = None,
    ) -> None:
        self.processor, self.template, self.roles, self.steering = processor, template, roles, dict(steering or {})
        self.one_per_prompt, self.training = one_candidate_per_prompt, training

    def __call__(self, examples: Sequence[Example]) -> ReaderBatch:
        """Raises ValueError if a training example has several candidates for a one-candidate prompt."""
        examples = [assembled(example, self.template, self.processor, self.one_per_prompt) for example in examples]
        plan: list[tuple[int, int, Prompt]] = []
        for place, example in enumerate(examples):
            for candidate, shown in self._prompts_of(example):
                plan.append((place, candidate, self.template.build(example, shown)))
        parts = tuple(self._part([plan[i] for i in group], examples) for group in self._groups(plan, examples))
        tokens = sum(int(p.prompts.mask_PT.sum()) + (int(p.rows.mask_RL.sum()) if p.rows else 0) for p in parts)
        return ReaderBatch(tuple(example.without_images() for example in examples), parts, tokens)

    def _groups(self, plan: Sequence[tuple[int, int, Prompt]], examples: Sequence[Example]) -> list[list[int]]:
        """Prompts of similar length, steered alike; in evaluation closed and open questions apart, as only the latter generate.

        Closed questions then make one part: the scorer groups its passes by length itself, and shares more among more prompts.
        """
        kinds: dict[tuple[AnswerType | None, str | None], list[int]] = {}
        for i, (place, _, prompt) in enumerate(plan):
            answer_type = None if self.training else examples[place].query.answer_type
            kinds.setdefault((answer_type, self._steered_as(examples[place], prompt)), []).append(i)
        groups: list[list[int]] = []
        for (kind, _), members in kinds.items():
            if kind is AnswerType.CLOSED:
                groups.append(members)
                continue
            lengths = [self.processor.count_tokens(plan[i][2]) for i in members]
            groups += [[members[j] for j in sorted(group)] for group in split_by_length(lengths)]
        return groups

    def _steered_as(self, example: Example, prompt: Prompt) -> str | None:
        """The name that the prompt's steering goes by; None where it is read as it is."""
        shown = any(segment.candidate is not None for segment in prompt.segments)
        system = "" if example.system.startswith(ABLATED) and example.system not in self.steering else example.system
        return system if shown and system in self.steering else None

    def _prompts_of(self, example: Example) -> list[tuple[int, tuple[int, ...]]]:
        """(candidate number, candidates shown) for each prompt of an example."""
        everything = tuple(range(len(example.candidates)))
        if not self.one_per_prompt or len(everything) <= 1:
            return [(everything[0] if len(everything) == 1 else -1, everything)]
        if self.training:
            raise ValueError(f"query {example.query.id!r}: {len(everything)} candidates for a one-candidate training prompt")
        return [(k, (k,)) for k in everything]

    def _part(self, plan: Sequence[tuple[int, int, Prompt]], examples: Sequence[Example]) -> ReaderPart:
        answers = [(row, text) for row, (place, _, _) in enumerate(plan) for text in self._answers(examples[place])]
        first, _, prompt = plan[0]  # all of a part are steered alike
        system = self._steered_as(examples[first], prompt)
        steering = None if system is None else self.steering[system]
        encoded = self.processor.encode_prompts(
            [prompt for _, _, prompt in plan], share_images=not self.training, roles=self.roles or steering is not None
        )
        return ReaderPart(
            prompts=encoded if steering is None else replace(encoded, steering=steering),
            rows=answer_rows(self.processor, answers) if answers else None,
            query_of_prompt=tuple(place for place, _, _ in plan),
            candidate_of_prompt=tuple(candidate for _, candidate, _ in plan),
        )

    def _answers(self, example: Example) -> list[str]:
        query = example.query
        if not self.training and query.answer_type is AnswerType.CLOSED:
            return list(query.choices)
        return [] if query.answer is None else [query.answer]


def answer_rows(processor: Processor, answers: Sequence[tuple[int, str]]) -> AnswerRows:
    """Answer rows from (prompt number, answer text); the loss mask is that of the supervised segment, the answer."""
    segments = [Segment(Role.ANSWER, text) for _, text in answers]
    ids = processor.encode_answers([segment.text for segment in segments])
    longest = max(len(row) for row in ids)
    ids_RL = torch.zeros((len(ids), longest), dtype=torch.long)
    mask_RL = torch.zeros((len(ids), longest), dtype=torch.bool)
    for row, (tokens, segment) in enumerate(zip(ids, segments, strict=True)):
        ids_RL[row, : len(tokens)] = torch.tensor(tokens)
        mask_RL[row, : len(tokens)] = segment.supervised
    return AnswerRows(ids_RL, mask_RL, torch.tensor([prompt for prompt, _ in answers]))
