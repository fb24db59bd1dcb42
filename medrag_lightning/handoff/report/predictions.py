"""The predictions that a run has written, as records again."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medrag_lightning.records import AnswerType, Channel, Noise, NoiseKind, Prediction, Regime, Variant

MAX_LINE_CHARS = 10_000_000


def read_predictions(path: Path) -> list[Prediction]:
    """The rows of ``predictions/SPLIT.jsonl`` in file order; a log-probability that is null there is minus infinity.

    Raises:
        ValueError: a row is no prediction; names file and line.
    """
    found = []
    with path.open(encoding="utf-8") as stream:
        for number, line in enumerate(stream, start=1):
            if not line.strip():
                continue
            try:
                if len(line) > MAX_LINE_CHARS:
                    raise ValueError(f"a line of more than {MAX_LINE_CHARS} characters")
                found.append(_prediction(json.loads(line)))
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
                why = f"no key {error}" if isinstance(error, KeyError) else error
                raise ValueError(f"{path}:{number}: not a prediction as a run writes it: {why}") from error
    return found


def _prediction(row: dict[str, Any]) -> Prediction:
    noise = row.get("noise")
    return Prediction(
        query_id=str(row["query_id"]),
        regime=Regime(row["regime"]),
        answer=row["answer"],
        raw=str(row["raw"]),
        gold=row["gold"],
        answer_type=AnswerType(row["answer_type"]),
        choices=tuple(row["choices"]),
        logp_nats=_numbers(row["logp_nats"]),
        cited=tuple(row["cited"]),
        weights=_numbers(row["weights"]),
        need=row.get("need"),
        question=str(row.get("question", "")),
        scores=_numbers(row["scores"]),
        channels=tuple(Channel(name) for name in row["channels"]),
        candidate_logp_nats=tuple(_numbers(one) for one in row["candidate_logp_nats"]),
        candidate_answers=tuple(row["candidate_answers"]),
        system=str(row.get("system", "")),
        gold_logp_nats=None if row.get("gold_logp_nats") is None else float(row["gold_logp_nats"]),
        gold_tokens=int(row.get("gold_tokens", 0)),
        noise=None if noise is None else Noise(NoiseKind(noise["kind"]), float(noise["share"])),
        dropped=tuple(row.get("dropped", ())),
        variant=None if row.get("variant") is None else Variant(row["variant"]),
    )


def _numbers(values: Sequence[float | None]) -> tuple[float, ...]:
    return tuple(-math.inf if value is None else float(value) for value in values)
