"""What a large reader is told as an expert: how to write searches, and how to judge what they found (HeteroRAG, MQG)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from medrag_lightning.batches import Prompt, Role, Segment
from medrag_lightning.interfaces import ExploreTask, JudgeTask
from medrag_lightning.prompts import cut_at_word
from medrag_lightning.records import Query

EXPLORE = """\
You help to find medical literature. Above are {shown}. Do not answer the question. Write search queries that find texts \
which help to answer it, in each of these corpora:
{corpora}

Rules:
- Write exactly {count} queries for each corpus, each different from the others: other words, other aspects.
- Fit each query to what its corpus holds, and to the words that its texts use.
- A search engine sees neither the image nor the question: name in words what the image shows, as far as it matters.
- Separate the queries of a corpus by a semicolon. Write no semicolon, no < and no > inside a query.
- Reply with these lines and nothing else, each tag opened once and closed once:
{form}"""
AGAIN = "\nAn earlier reply could not be read. Take care that every tag stands there, opened once and closed once."
JUDGE = """\
Above are {shown}, its right answer, and documents that a search of the corpus "{corpus}" found. Do these documents support \
the right answer: do they hold information from which somebody would come to it? Take the right answer as given; do not \
judge whether it is right. A document on the same subject that says nothing about the answer does not support it.
Reason in at most three short sentences. Then write, as your last word, yes or no."""


def explore_prompt(task: ExploreTask) -> Prompt:
    """Image, question, and how to write searches for the corpora."""
    corpora = "\n".join(f"- {name}: {told}" for name, told in task.corpora.items())
    told = EXPLORE.format(shown=_shown(task.image is not None), corpora=corpora, count=task.count, form=_form(task))
    return _prompt(task, told + (AGAIN if task.attempt else ""))


def judge_prompt(task: JudgeTask, max_document_chars: int) -> Prompt:
    """Image, question, right answer, what was found, and how to judge it; longer documents are cut after a word."""
    found = [f"document {number}: {cut_at_word(d.text, max_document_chars)}" for number, d in enumerate(task.documents, 1)]
    told = JUDGE.format(shown=_shown(task.image is not None), corpus=task.corpus)
    return _prompt(task, "\n".join([f"right answer: {task.query.answer}", *found, "", told]))


def constant_texts(corpora: Mapping[str, str]) -> Sequence[str]:
    """Everything that prompts say of themselves; a tiny model from scratch makes its tokenizer of it."""
    return [EXPLORE, AGAIN, JUDGE, *corpora, *corpora.values()]


def _prompt(task: ExploreTask | JudgeTask, told: str) -> Prompt:
    image = () if task.image is None else (Segment(Role.QUERY_IMAGE, image=task.image),)
    return Prompt((*image, Segment(Role.QUESTION, _question(task.query)), Segment(Role.INSTRUCTION, f"\n{told}")))


def _question(query: Query) -> str:
    choices = f"\npossible answers: {' / '.join(query.choices)}" if query.choices else ""
    return f"question: {query.question}{choices}"


def _shown(image: bool) -> str:
    return "a medical image and a question about it" if image else "a medical question"


def _form(task: ExploreTask) -> str:
    queries = "; ".join(f"query {number}" for number in range(1, task.count + 1))
    return "\n".join(f"<{name}>{queries}</{name}>" for name in task.corpora)
