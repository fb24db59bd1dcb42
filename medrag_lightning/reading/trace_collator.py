"""Questions with all their evidence to prompts, and the traces to learn to the text that follows: run in loader workers."""

from __future__ import annotations

from collections.abc import Sequence

from medrag_lightning.batches import Example, Prompt, ReaderBatch, ReaderPart, split_by_length
from medrag_lightning.interfaces import Processor
from medrag_lightning.prompts import PromptTemplate, cut_at_word
from medrag_lightning.reading.assembling import assembled
from medrag_lightning.reading.raft_collator import answer_rows
from medrag_lightning.records import format_trace
from medrag_lightning.records.traces import is_excerpt


class TraceCollator:
    """One prompt a question, all evidence in it, followed by the text of `Example.trace` where the example has one.

    The gold answer stands nowhere: not in the prompt, and in the text only as far as the teacher wrote it.

    Args:
        processor: the reader's.
        template: the prompt template; see `checked_template`.
        training: whether gradients are wanted; without, images that several prompts show are prepared once.
    """

    def __init__(self, processor: Processor, template: PromptTemplate, training: bool) -> None:
        self.processor, self.template, self.training = processor, checked_template(template), training

    def __call__(self, examples: Sequence[Example]) -> ReaderBatch:
        """Raises ValueError that names the question whose trace keeps what its prompt does not show."""
        examples = [assembled(example, self.template, self.processor) for example in examples]
        prompts = [self.template.build(example) for example in examples]
        texts = [self._text(example) for example in examples]
        lengths = [self.processor.count_tokens(prompt) for prompt in prompts]
        parts = tuple(self._part(sorted(group), prompts, texts) for group in split_by_length(lengths))
        tokens = sum(int(p.prompts.mask_PT.sum()) + (int(p.rows.mask_RL.sum()) if p.rows else 0) for p in parts)
        return ReaderBatch(tuple(example.without_images() for example in examples), parts, tokens)

    def _part(self, places: Sequence[int], prompts: Sequence[Prompt], texts: Sequence[str | None]) -> ReaderPart:
        told = [(row, text) for row, place in enumerate(places) if (text := texts[place]) is not None]
        encoded = self.processor.encode_prompts([prompts[place] for place in places], share_images=not self.training)
        return ReaderPart(
            prompts=encoded,
            rows=answer_rows(self.processor, told) if told else None,
            query_of_prompt=tuple(places),
            candidate_of_prompt=(-1,) * len(places),
        )

    def _text(self, example: Example) -> str | None:
        if example.trace is None:
            return None
        shown = [cut_at_word(one.document.text, self.template.max_evidence_chars) for one in example.candidates]
        for kept in example.trace.kept:
            about = f"the trace of question {example.query.id!r} keeps evidence {kept.number}"
            if kept.number > len(shown):
                raise ValueError(
                    f"{about}, and its prompt has room for {len(shown)}: raise "
                    "--model.init_args.template.max_prompt_tokens, or write traces with less evidence"
                )
            if not is_excerpt(kept.text, shown[kept.number - 1]):
                raise ValueError(
                    f"{about} with words that its prompt cuts off: raise --model.init_args.template.max_evidence_chars "
                    f"({self.template.max_evidence_chars})"
                )
        return format_trace(example.trace)


def checked_template(template: PromptTemplate) -> PromptTemplate:
    """The template, if traces can name the evidence that it shows.

    Raises:
        ValueError: evidence is not numbered, or its order in the prompt is not that in which it was found.
    """
    if template.kinds != "as_found":
        raise ValueError(
            f"template.kinds {template.kinds!r} would change the numbers that traces give to evidence: leave it at as_found"
        )
    if "{number}" not in template.evidence_prefix and not template.delimit_evidence:
        raise ValueError(
            f"a trace names evidence by its number, and template.evidence_prefix {template.evidence_prefix!r} shows none: "
            "write, for instance, '[{number}] '"
        )
    return template
