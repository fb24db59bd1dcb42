"""Preference pairs to reader batches: the collator of stage `reader_preference`, picklable, run in loader workers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from medrag_lightning.batches import EncodedPrompts, Example, PreferenceBatch, PreferenceExample, Prompt
from medrag_lightning.interfaces import Processor
from medrag_lightning.prompts import PromptTemplate
from medrag_lightning.reading.assembling import assembled
from medrag_lightning.reading.raft_collator import answer_rows
from medrag_lightning.records import Condition, PreferenceSide

PromptKey = tuple[str, Condition]


class PreferenceCollator:
    """Builds each distinct prompt, image and answer to a prompt once, whatever number of pairs they belong to.

    All evidence of a side stands in one prompt. Answers are whole; how much of a document is shown is the template's
    `max_evidence_chars`, and how much evidence its `max_prompt_tokens`, as in the score table. Prompts of pairs about one query
    and one set of evidence have one number in `pack_of_prompt`.

    Args:
        processor: the reader's.
        template: the prompt template.
    """

    def __init__(self, processor: Processor, template: PromptTemplate) -> None:
        self.processor, self.template = processor, template

    def __call__(self, examples: Sequence[PreferenceExample]) -> PreferenceBatch:
        """Raises ValueError where an answer's tokens are not those that its stored reference was computed for."""
        prompts, packs = self._prompts(examples)
        places = {key: place for place, key in enumerate(prompts)}
        answered = [(places[_key(shown, side)], side.answer) for one in examples for shown, side in _sides(one)]
        rows = {row: place for place, row in enumerate(sorted(dict.fromkeys(answered)))}
        encoded = self.processor.encode_prompts([self._prompt(one) for one in prompts.values()], share_images=True)
        answers = answer_rows(self.processor, list(rows))
        of_side_B2 = torch.tensor([rows[row] for row in answered]).view(-1, 2)
        counts = answers.mask_RL.sum(1)[of_side_B2].tolist()
        self._check_tokens(examples, counts)
        return PreferenceBatch(
            pairs=tuple(one.pair for one in examples),
            prompts=replace(encoded, pack_of_prompt=packs),
            rows=answers,
            chosen_B=of_side_B2[:, 0],
            rejected_B=of_side_B2[:, 1],
            weight_B=torch.tensor([one.pair.weight for one in examples], dtype=torch.float32),
            reference_B2=torch.tensor([[_stored(side) for _, side in _sides(one)] for one in examples]),
            token_count=int(encoded.mask_PT.sum()) + int(answers.mask_RL.sum()),
        )

    def _prompt(self, one: Example) -> Prompt:
        return self.template.build(assembled(one, self.template, self.processor))

    def _prompts(self, examples: Sequence[PreferenceExample]) -> tuple[dict[PromptKey, Example], tuple[int, ...]]:
        """The distinct prompts in order of appearance, and the number of the pack of each."""
        prompts: dict[PromptKey, Example] = {}
        number: dict[PromptKey, int] = {}
        packs: dict[tuple[str, tuple[str, ...]], int] = {}
        for one in examples:
            pack = packs.setdefault((one.pair.query_id, one.pair.chosen.condition.evidence_ids), len(packs))
            for shown, side in _sides(one):
                prompts.setdefault(_key(shown, side), shown)
                number.setdefault(_key(shown, side), pack)
        return prompts, tuple(number.values())

    def _check_tokens(self, examples: Sequence[PreferenceExample], counts: Sequence[Sequence[int]]) -> None:
        for one, mine in zip(examples, counts, strict=True):
            for (_, side), count in zip(_sides(one), mine, strict=True):
                if side.tokens not in (0, count):
                    raise ValueError(
                        f"pair {one.pair.id!r}: its answer {side.answer!r} has {count} tokens here and had {side.tokens} in "
                        "the score table: the stored reference is another reader's. Score and build pairs with the reader "
                        "that is tuned (data.preference.table)."
                    )


def same_for_reader(batch: PreferenceBatch) -> list[bool]:
    """For each pair, whether the reader gets the very same on both sides: prompt tokens, images and answer tokens.

    The margin of such a pair is zero whatever the reader's weights are.
    """
    found = []
    prompt_of_row, rows = batch.rows.prompt_of_row_R.tolist(), batch.rows
    for chosen, rejected in zip(batch.chosen_B.tolist(), batch.rejected_B.tolist(), strict=True):
        same_answer = torch.equal(rows.ids_RL[chosen], rows.ids_RL[rejected])
        same_answer &= torch.equal(rows.mask_RL[chosen], rows.mask_RL[rejected])
        found.append(same_answer and _same_prompt(batch.prompts, prompt_of_row[chosen], prompt_of_row[rejected]))
    return found


def _same_prompt(prompts: EncodedPrompts, one: int, other: int) -> bool:
    if one == other:
        return True
    if prompts.vision and not prompts.image_places:
        return False  # it cannot be told
    same = torch.equal(prompts.ids_PT[one], prompts.ids_PT[other]) and torch.equal(prompts.mask_PT[one], prompts.mask_PT[other])
    return same and (not prompts.image_places or prompts.image_places[one] == prompts.image_places[other])


def _sides(one: PreferenceExample) -> tuple[tuple[Example, PreferenceSide], tuple[Example, PreferenceSide]]:
    return (one.chosen, one.pair.chosen), (one.rejected, one.pair.rejected)


def _key(shown: Example, side: PreferenceSide) -> PromptKey:
    return shown.query.id, side.condition


def _stored(side: PreferenceSide) -> float:
    return float("nan") if side.reference_nats is None else side.reference_nats
