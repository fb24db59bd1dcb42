"""The effect of leaving out each document where all of them stood in one prompt: the reader reads again without each.

This takes the checkpoint that the answers came from, and one pass a document; what is done is kept in the run folder, and a
later report of the same answers goes on from there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medrag_lightning.artifacts import fingerprint, read_json, sha256_file, write_json
from medrag_lightning.handoff.report.removal import Removal
from medrag_lightning.handoff.report.run_files import Run
from medrag_lightning.handoff.report.world import World, read_world
from medrag_lightning.records import Candidate, Prediction, Regime

if TYPE_CHECKING:
    from medrag_lightning.answering import Answerer

KEPT = "removed_each.json"
SAVE_EVERY = 20  # questions
AGREES_NATS = 1e-3
Progress = Callable[[int, int], None]


def reread_without_each(
    run: Run, checkpoint: Path, predictions: Sequence[Prediction], progress: Progress | None = None
) -> tuple[dict[str, tuple[Removal, ...]], str]:
    """Removal effects by question id, and a line on how they came about. Call it where the run was started.

    Args:
        run: of stage `reader_raft`.
        checkpoint: that its answers came from.
        predictions: of the run's own system, whose documents are left out in turn.
        progress: told how many of all questions are done.

    Raises:
        ValueError: the answerer cannot be made, a document or question is gone, or reading all documents again gives
            others than the answers on file.
    """
    wanted = [p for p in predictions if len(p.cited) > 1]
    made_of = fingerprint(sha256_file(checkpoint), sha256_file(run.folder / "config.yaml"), sha256_file(_file_of(run)))
    kept = _kept(run.folder / KEPT, made_of)
    missing = [p for p in wanted if p.query_id not in kept["rows"]]
    if missing:
        answerer, world = _answerer(run, checkpoint)
        for done, prediction in enumerate(missing, start=1):
            rows, apart = _read(answerer, world, prediction)
            kept["rows"][prediction.query_id] = rows
            kept["apart_nats"] = max(kept["apart_nats"], apart)
            if done % SAVE_EVERY == 0 or done == len(missing):
                write_json(run.folder / KEPT, kept)
            if progress is not None:
                progress(done, len(missing))
    effects = {p.query_id: tuple(Removal(*row) for row in kept["rows"][p.query_id]) for p in wanted}
    line = f"The reader has read {len(wanted)} questions again without each document; with all of them its log-probabilities "
    return effects, f"{line}are those on file to {max(kept['apart_nats'], 1e-9):.1g} nats."


def _answerer(run: Run, checkpoint: Path) -> tuple[Answerer, World]:
    from medrag_lightning.answering import Answerer  # torch: only where the reader reads

    world = read_world(run)
    if world.reason:
        raise ValueError(f"--remove_each: {world.problem}")
    return Answerer.from_run(run.folder / "config.yaml", checkpoint, without_generator=True), world  # the evidence is on file


def _read(answerer: Answerer, world: World, p: Prediction) -> tuple[list[list[Any]], float]:
    """[change of the answer, change of gold, answer] without each document, and how far reading all is from what is on file."""
    from medrag_lightning.data.examples import example_of

    if p.query_id not in world.queries or any(name not in world.documents for name in p.cited):
        raise ValueError(f"--remove_each: question {p.query_id!r} or its documents are no longer in the run's tables")
    found = tuple(Candidate(world.documents[name], p.scores[k], p.channels[k]) for k, name in enumerate(p.cited))
    query = world.queries[p.query_id]
    parts = [found, *(found[:k] + found[k + 1 :] for k in range(len(found)))]
    examples = [example_of(query, Regime.RETRIEVED, shown, answerer.open_image) for shown in parts]
    batch = answerer.collate(examples)
    with_all, *without = [one.prediction for one in answerer.batch_reader.read(batch.to(_device(answerer)))]
    apart = _apart(with_all, p)
    if apart > AGREES_NATS:
        raise ValueError(
            f"--remove_each: with all documents the reader is {apart:.3g} nats from the answer on file to {p.query_id!r}; the "
            "checkpoint is not that of the run: name it with --ckpt_path FILE"
        )
    return [[_of(p.answer, one, with_all), _gold(one, with_all), one.answer] for one in without], apart


def _device(answerer: Answerer) -> Any:
    """Where the reader's weights are."""
    import torch

    reader = answerer.reader
    first = next(reader.parameters(), None) if isinstance(reader, torch.nn.Module) else None
    return torch.device("cpu") if first is None else first.device


def _of(answer: str | None, one: Prediction, with_all: Prediction) -> float | None:
    if answer not in one.choices or not one.logp_nats:
        return None
    place = one.choices.index(answer)
    return _finite(one.logp_nats[place] - with_all.logp_nats[place])


def _gold(one: Prediction, with_all: Prediction) -> float | None:
    if one.gold_logp_nats is None or with_all.gold_logp_nats is None:
        return None
    return _finite(one.gold_logp_nats - with_all.gold_logp_nats)


def _apart(again: Prediction, on_file: Prediction) -> float:
    if again.gold_logp_nats is not None and on_file.gold_logp_nats is not None:
        return abs(again.gold_logp_nats - on_file.gold_logp_nats)
    pairs = zip(again.logp_nats, on_file.logp_nats, strict=True)
    return max((abs(math.exp(a) - math.exp(b)) for a, b in pairs), default=0.0)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _file_of(run: Run) -> Path:
    assert run.split is not None
    return run.predictions(run.split)


def _kept(path: Path, made_of: str) -> dict[str, Any]:
    """What an earlier report has read; nothing where it was of other answers."""
    if path.is_file():
        told = read_json(path)
        if isinstance(told, dict) and told.get("made_of") == made_of:
            return told
    return {"schema": 1, "made_of": made_of, "apart_nats": 0.0, "rows": {}}
