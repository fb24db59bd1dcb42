"""Questions to prompts, and the searches to learn to the text that follows: picklable, run in loader workers."""

from __future__ import annotations

from collections.abc import Sequence

from medrag_lightning.batches import Example, Prompt, ReaderBatch, ReaderPart, split_by_length
from medrag_lightning.interfaces import Processor
from medrag_lightning.prompts import PromptTemplate
from medrag_lightning.reading.assembling import assembled
from medrag_lightning.reading.raft_collator import answer_rows
from medrag_lightning.records import Searches, format_searches
from medrag_lightning.records.searches import TAG


class SearchCollator:
    """One prompt a question, without evidence, followed by the text of `Query.searches` where the question has them.

    Args:
        processor: the reader's.
        template: the prompt template.
        corpora: names of the corpora, in the order of the tags.
        training: whether gradients are wanted; without, images that several prompts show are prepared once.
    """

    def __init__(self, processor: Processor, template: PromptTemplate, corpora: Sequence[str], training: bool) -> None:
        self.processor, self.template, self.corpora, self.training = processor, template, tuple(corpora), training

    def __call__(self, examples: Sequence[Example]) -> ReaderBatch:
        """Raises ValueError that names the question whose searches are of another corpus, or cannot be written."""
        prompts = [self.template.build(assembled(example, self.template, self.processor)) for example in examples]
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
        query = example.query
        if query.searches is None:
            return None
        try:
            return search_text(query.searches, self.corpora)
        except ValueError as error:
            raise ValueError(f"the searches of question {query.id!r}: {error}; see model.init_args.corpora") from error


def search_text(searches: Searches, corpora: Sequence[str]) -> str:
    """The text that a generator is to write: one tag a corpus, empty where it is not searched."""
    return format_searches({name: (words,) if words.strip() else () for name, words in searches}, corpora)


def checked_corpora(corpora: Sequence[str]) -> tuple[str, ...]:
    """The names of the corpora; ValueError where one cannot be a tag, occurs twice, or there is none."""
    if isinstance(corpora, str) or not corpora or len(set(corpora)) != len(corpora):
        raise ValueError(f"corpora must name each corpus to write searches for once, at least one; got {corpora!r}")
    if wrong := [name for name in corpora if not TAG.fullmatch(name)]:
        raise ValueError(f"corpora: {wrong[0]!r} cannot be a tag: letters and digits, then also '_', '-' and '.'")
    return tuple(corpora)
