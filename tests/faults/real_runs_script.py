"""Real runs (fit, score, index) killed at the n-th call that touches the disk, then run again. Run by test_killed_runs.py.

    real_runs_script.py KIND FOLDER KILLS SEED     prints one JSON line

Every run is a forked child of this process, which itself trains nothing, so that starting one costs no imports.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "stages")]

import lightning as L  # noqa: E402, F401  (before the forks)
import torch  # noqa: E402
from broken_disk import BrokenDisk  # noqa: E402
from drills import in_a_child  # noqa: E402
from score_script import plan, score  # noqa: E402
from toy import ToyTable, data, stage, trainer  # noqa: E402

from callbacks.checkpoint_io import AtomicCheckpointIO  # noqa: E402
from callbacks.csv_logger import AppendingCSVLogger  # noqa: E402
from callbacks.last_checkpoint import LastCheckpoint  # noqa: E402
from callbacks.predictions_writer import PredictionsWriter  # noqa: E402
from medrag_lightning.artifacts import sha256_file  # noqa: E402
from medrag_lightning.data.images import ImageStore  # noqa: E402
from medrag_lightning.models.tiny_dual_encoder import TinyDualEncoder  # noqa: E402
from medrag_lightning.retrieval.index import IndexConfig  # noqa: E402
from medrag_lightning.retrieval.source import LiveSearch  # noqa: E402


def fit(folder: Path) -> None:
    """Two epochs with dropout, from last.ckpt where one is there."""
    torch.set_num_threads(1)
    last = folder / "checkpoints" / "last.ckpt"
    logger = AppendingCSVLogger(str(folder))
    if last.is_file():
        logger.rewind(torch.load(last, weights_only=True)["global_step"])
    run = trainer(
        folder, max_epochs=2, enable_checkpointing=True, plugins=[AtomicCheckpointIO()], logger=logger, log_every_n_steps=1,
        callbacks=[LastCheckpoint(every_n_steps=1), PredictionsWriter()],
    )  # fmt: skip
    served = data(folder.parent / "data", max_eval_queries=2, num_workers=0)
    run.fit(stage(dropout=0.2), datamodule=served, ckpt_path=last if last.is_file() else None, weights_only=True)


def fit_result(folder: Path) -> str:
    saved = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    weights = {name: sha256(value.numpy().tobytes()).hexdigest() for name, value in saved["state_dict"].items()}
    rows, whole = (set(read_rows(place)) for place in (folder, folder.parent / "whole"))
    log = "like the whole one" if rows <= whole and len(whole - rows) <= 1 else f"{len(rows)} rows, not {len(whole)}"
    return json.dumps([saved["global_step"], weights, sha256_file(folder / "predictions" / "val.jsonl"), log])


def read_rows(folder: Path) -> list[str]:
    """Of metrics.csv; the row of a step is logged after its checkpoint, so a kill between the two loses that one row."""
    return (folder / "metrics.csv").read_text().splitlines()


def score_run(folder: Path) -> None:
    """The toy's score table, a shard a pack."""
    torch.set_num_threads(1)
    score(folder.parent / "data", folder / "table", plan_=plan(folder / "table"))


def score_result(folder: Path) -> str:
    return sha256_file(folder / "table" / "scores.arrow")


def index_run(folder: Path) -> None:
    """An evidence store and its index, as `fit` prepares them."""
    table = ToyTable(str(folder.parent / "data"))
    encoder = TinyDualEncoder(dim=16)
    source = LiveSearch(encoder, {"image_to_image": 2}, IndexConfig())
    source.prepare(table.documents(), ImageStore(table.roots()), folder / "store")


def index_result(folder: Path) -> str:
    return json.dumps([sha256_file(path) for path in sorted((folder / "store").glob("*.npy"))])


RUNS: dict[str, tuple[Callable[[Path], None], Callable[[Path], str]]] = {
    "fit": (fit, fit_result),
    "score": (score_run, score_result),
    "index": (index_run, index_result),
}


def main() -> None:
    kind, root, kills, seed = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    run, result = RUNS[kind]
    (root / "data").mkdir(parents=True)
    ToyTable(str(root / "data")).queries()
    sys.stdout.flush()
    told = os.dup(1)
    os.dup2(os.open(root / "log.txt", os.O_CREAT | os.O_WRONLY), 1)
    os.dup2(1, 2)
    whole = root / "whole"
    whole.mkdir()

    def counted() -> None:
        with BrokenDisk(whole, None, 0) as disk:
            run(whole)
        (root / "count").write_text(str(disk.count))

    assert in_a_child(counted) == 0, (root / "log.txt").read_text()[-3000:]
    expected, calls = result(whole), int((root / "count").read_text())
    rng, wrong, survived = random.Random(seed), [], 0
    for number in sorted(rng.randrange(1, calls + 1) for _ in range(kills)):
        folder = root / "killed"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()

        def killed(folder: Path = folder, number: int = number) -> None:
            with BrokenDisk(folder, None, number, kill=True):
                run(folder)

        status = in_a_child(killed)
        again = in_a_child(lambda folder=folder: run(folder))
        same = again == 0 and result(folder) == expected
        litter = [str(path) for path in folder.rglob(".*.tmp")]
        if status == signal.SIGKILL and same and not litter:
            survived += 1
        else:
            wrong.append(f"call {number}: status {status}, second run {again}, same result {same}, litter {litter}")
    os.write(
        told, (json.dumps({"kind": kind, "calls": calls, "kills": kills, "survived": survived, "wrong": wrong}) + "\n").encode()
    )


if __name__ == "__main__":
    main()
