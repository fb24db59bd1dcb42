"""An answer as text to read and as plain JSON. Neither ever holds a patient or study id."""

from __future__ import annotations

import math
from typing import Any

from medrag_lightning.answering.answer import Answer, AnswerTrace, Citation

SHOWN_CHARS = 160
NOTE = "a research tool, not a medical device"


def answer_as_text(answer: Answer) -> str:
    """The answer in a few lines: what it is, how sure, on what grounds, and what to be wary of."""
    lines = [_first_line(answer)]
    if answer.reason:
        lines.append(f"why it abstains: {answer.reason}")
    if answer.choices and answer.logp_nats:
        lines.append("choices: " + ", ".join(f"{choice} {_share(logp)}" for choice, logp in _ranked(answer)))
    if answer.rewritten is not None:
        lines.append(f"searched as: {_printable(answer.rewritten)}")
    if answer.searches is not None:
        asked = [f"  {name}: {_printable(words)}" for name, words in answer.searches]
        lines += ["searches:", *asked] if asked else ["searches: no corpus was asked for texts"]
    if answer.trace is not None:
        lines += _trace_lines(answer.trace)
    lines.append("evidence:" if answer.citations else "evidence: none")
    lines += [_citation_line(place, citation) for place, citation in enumerate(answer.citations, start=1)]
    if answer.guarantee:
        lines.append(f"calibrated: {answer.guarantee}")
    lines += [f"beware: {_printable(warning)}" for warning in answer.warnings]
    if answer.seconds:
        parts = ", ".join(f"{step} {seconds:.2f} s" for step, seconds in answer.seconds.items())
        lines.append(f"time: {sum(answer.seconds.values()):.2f} s ({parts})")
    return "\n".join([*lines, f"({NOTE})"])


def answer_as_json(answer: Answer) -> dict[str, Any]:
    """The answer as JSON-able values; ``choices`` holds each choice's probability, None where unknown."""
    return {
        "answer": answer.text,
        "probability": answer.probability,
        "abstained": answer.abstained,
        "reason": answer.reason,
        "choices": {choice: _share(logp) for choice, logp in zip(answer.choices, answer.logp_nats, strict=True)}
        if answer.logp_nats
        else dict.fromkeys(answer.choices),
        "searches": None if answer.searches is None else dict(answer.searches),
        "search_faults": list(answer.search_faults),
        **({} if answer.rewritten is None else {"rewritten": answer.rewritten}),
        "evidence": [_citation_row(citation) for citation in answer.citations],
        "warnings": list(answer.warnings),
        **({"guarantee": answer.guarantee} if answer.guarantee else {}),
        **({} if answer.trace is None else {"trace": _trace_row(answer.trace)}),
        "seconds": {step: round(seconds, 4) for step, seconds in answer.seconds.items()},
        "note": NOTE,
    }


def _first_line(answer: Answer) -> str:
    said = "no answer" if answer.text is None else _printable(answer.text)
    sure = "" if answer.probability is None else f" (probability {answer.probability:.3f})"
    return f"abstains; it would have said: {said}{sure}" if answer.abstained else f"answer: {said}{sure}"


def _ranked(answer: Answer) -> list[tuple[str, float]]:
    pairs = zip(answer.choices, answer.logp_nats, strict=True)
    return sorted(((_printable(choice), logp) for choice, logp in pairs), key=lambda pair: -pair[1])


def _share(logp_nats: float) -> float:
    return round(math.exp(logp_nats), 6)


def _citation_line(place: int, citation: Citation) -> str:
    told = [f"{place}. {_printable(citation.document_id)}"]
    if citation.weight is not None:
        told.append(f"weight {citation.weight:.2f}")
    told += [f"{citation.channel} {citation.score:.3f}"]
    if citation.alone is not None:
        told.append(f"alone says {_printable(citation.alone)}")
    told.append(f"licence {_printable(citation.license) or 'not known'}")
    if citation.origin:
        told.append(f"from {_printable(citation.origin)}")
    text = " ".join(_printable(citation.text).split())
    shown = text if len(text) <= SHOWN_CHARS else text[: SHOWN_CHARS - 3] + "..."
    return f"  {', '.join(told)}" + (f"\n     {shown}" if shown else "")


def _trace_lines(trace: AnswerTrace) -> list[str]:
    steps = {"first answer": trace.initial, "rethought": trace.rethink, "last answer": trace.final}
    kept = ", ".join(f"[{one.number}] {_printable(one.document_id)}" for one in trace.kept) or "nothing"
    lines = [f"  {name}: {'not written' if text is None else _printable(text)}" for name, text in steps.items()]
    return ["trace:", f"  kept: {kept}", *lines]


def _trace_row(trace: AnswerTrace) -> dict[str, Any]:
    kept = [{"number": one.number, "id": one.document_id, "text": one.text} for one in trace.kept]
    steps = {"initial": trace.initial, "rethink": trace.rethink, "final": trace.final}
    return {"kept": kept, **steps, "faults": list(trace.faults)}


def _citation_row(citation: Citation) -> dict[str, Any]:
    return {
        "id": citation.document_id,
        "weight": citation.weight,
        "score": citation.score,
        "channel": str(citation.channel),
        "alone": citation.alone,
        "licence": citation.license,
        "source": citation.source,
        "origin": citation.origin,
        "text": citation.text,
    }


def _printable(text: str) -> str:
    """`text` without control characters: a report may hold some, and a terminal obeys them."""
    return "".join(letter if letter.isprintable() else " " for letter in text)
