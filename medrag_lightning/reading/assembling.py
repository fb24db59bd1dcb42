"""What of the evidence stands in a prompt: in the order of its kinds, and no more of it than the reader has room for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from medrag_lightning.batches import Example
from medrag_lightning.interfaces import Processor
from medrag_lightning.prompts import PromptTemplate


def assembled(example: Example, template: PromptTemplate, processor: Processor, one_per_prompt: bool = False) -> Example:
    """The example with the candidates that its prompt shows, in their order there; `Example.dropped` names the others.

    What an answer cites is what this gives, so that nothing is cited which the reader has not seen. To do it again changes
    nothing.

    Args:
        example: with all its candidates.
        template: the prompt template; its `kinds` order the candidates of one prompt, its `max_prompt_tokens` is the room.
        processor: the reader's, which counts.
        one_per_prompt: each candidate stands in a prompt of its own, and is dropped where it has no room beside the question.

    Raises:
        ValueError: the question and its image alone are longer than the longest prompt.
    """
    if not one_per_prompt:
        example = _only(example, template.arranged(example.candidates))
    room = template.max_prompt_tokens
    if room is None:
        return example
    if one_per_prompt and example.candidates:
        fits = [_length(example, template, processor, [k]) <= room for k in range(len(example.candidates))]
        kept, dropped = [k for k, fit in enumerate(fits) if fit], [k for k, fit in enumerate(fits) if not fit][::-1]
        if not kept:
            _check_alone(example, template, processor, room)
        return _only(example, kept, dropped)
    order = template.dropped_first(example.candidates)
    for count in range(len(order)):
        kept = sorted(order[count:])
        if _length(example, template, processor, kept) <= room:
            return _only(example, kept, order[:count])
    _check_alone(example, template, processor, room)
    return _only(example, [], order)


def _length(example: Example, template: PromptTemplate, processor: Processor, shown: Sequence[int]) -> int:
    return processor.prompt_length(template.build(example, shown))


def _check_alone(example: Example, template: PromptTemplate, processor: Processor, room: int) -> None:
    length = _length(example, template, processor, ())
    if length > room:
        raise ValueError(
            f"query {example.query.id!r}: question and image alone take {length} tokens, more than max_prompt_tokens {room}. "
            "Neither is ever cut: raise --model.init_args.template.max_prompt_tokens, shorten the question, or show smaller "
            "images (the reader's max_image_side_px)"
        )


def _only(example: Example, kept: Sequence[int], dropped: Sequence[int] = ()) -> Example:
    """The example with the candidates `kept`, in that order."""
    if not dropped and list(kept) == list(range(len(example.candidates))):
        return example
    return replace(
        example,
        candidates=tuple(example.candidates[k] for k in kept),
        candidate_images=tuple(example.candidate_images[k] for k in kept) if example.candidate_images else (),
        dropped=(*example.dropped, *(example.candidates[k].id for k in dropped)),
    )
