"""Learned fusion of similarities (stage fusion_nce): a whole training over cached cosines, against plain peers.

What is timed is what `fit -c stages/fusion_nce` does once the similarities are kept on disk: opening and ranking the arrays,
and the fit through Lightning's Trainer with the settings of configs/stages/fusion_nce.yaml and the callbacks that write (best
and last checkpoint, CSV), in a process of its own, once for 3 and once for 4 channels. Python's imports come on top
(`process_seconds`). Peak memory includes them.
Cosines are synthetic, with planted weights; nothing else is a toy here: cost does not depend on what the numbers are.

Peers, on the same arrays and with the same loss: a plain loop in torch, query by query (a part of it, extrapolated), and
scipy's L-BFGS over everything at once, which has no batches, no validation, no checkpoints and no other scope to offer.

Prints one line of JSON last: `seconds` and `peak_rss_mb` are of the slower and the larger of the two.
"""

from __future__ import annotations

import argparse
import json
import logging
import resource
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import lightning as L
import numpy as np
import torch
import yaml
from lightning.pytorch.callbacks import ModelCheckpoint
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from callbacks.checkpoint_io import AtomicCheckpointIO
from callbacks.csv_logger import AppendingCSVLogger
from callbacks.last_checkpoint import LastCheckpoint
from medrag_lightning.data.fusion_feed import FusionItems
from medrag_lightning.data.module import MedragData
from medrag_lightning.data.sampler import EvalSampler, ResumableLoader, TrainSampler
from medrag_lightning.models.similarity_fusion import WeightedSimilarities
from medrag_lightning.records import Channel, Query
from medrag_lightning.stages.base import Schedule
from medrag_lightning.stages.fusion_nce import FusionNce
from medrag_lightning.stages.fusion_objective import NEGATIVES

CONFIG = Path(__file__).resolve().parents[2] / "configs" / "stages" / "fusion_nce.yaml"
CHANNELS = ("image_to_text", "image_to_image", "text_to_text", "text_to_image")
PLANTED = np.array([0.6, 0.3, 0.1, 0.2])
OFFSET, SCALE = np.array([0.1, 0.7, 0.4, 0.1]), np.array([0.03, 0.1, 0.2, 0.03])
NOISE, CHUNK, TAU = 0.3, 4096, 0.07


class Kept(L.LightningDataModule):
    """Kept arrays, served as the project's data module serves them."""

    def __init__(self, folder: Path, channels: int, batch_size: int, eval_batch_size: int) -> None:
        super().__init__()
        self.parts = {name: _opened(folder / name, channels) for name in ("train", "val")}
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size

    def split_queries(self, split: str) -> list[Query]:
        """A question for each modality."""
        return [Query(name, "?", modality=name) for name in {m for m in self.parts["train"].modality if m}]

    def train_dataloader(self) -> ResumableLoader:
        """Shuffled batches."""
        items, place = self.parts["train"], partial(MedragData._position, self)  # type: ignore[arg-type]
        sampler = TrainSampler(len(items), self.batch_size, 0)
        return ResumableLoader(items, sampler=sampler, batch_size=None, position=place, collate_fn=self._collate())

    def val_dataloader(self) -> list[DataLoader[Any]]:
        """All validation queries, in order."""
        sampler = EvalSampler(len(self.parts["val"]), self.eval_batch_size)
        return [DataLoader(self.parts["val"], sampler=sampler, batch_size=None, collate_fn=self._collate())]

    def _collate(self) -> Any:
        stage: Any = self.trainer.lightning_module  # type: ignore[union-attr]
        return stage.collator(True)


def _opened(folder: Path, channels: int) -> FusionItems:
    similarity = np.load(folder / f"similarities{channels}.npy", mmap_mode="r")
    names = [Channel(name) for name in CHANNELS[:channels]]
    modality = [("CT", "MR", None)[n % 3] for n in range(len(similarity))]
    return FusionItems(names, similarity, np.load(folder / f"confidences{channels}.npy", mmap_mode="r"), modality)


def write_arrays(folder: Path, count: int, pool: int, channels: int, seed: int) -> None:
    """Planted similarities and confidences as .npy files, some queries at a time."""
    folder.mkdir(parents=True, exist_ok=True)
    make = partial(np.lib.format.open_memmap, mode="w+", dtype=np.float32)
    similarity = make(folder / f"similarities{channels}.npy", shape=(count, pool, channels))
    confidence = make(folder / f"confidences{channels}.npy", shape=(count, pool))
    rng = np.random.default_rng(seed)
    for start in range(0, count, CHUNK):
        part = slice(start, min(start + CHUNK, count))
        unit = rng.standard_normal((part.stop - start, pool, channels), np.float32)
        unit = (unit - unit.mean(1, keepdims=True)) / unit.std(1, keepdims=True)
        value = unit @ PLANTED[:channels] + NOISE * rng.standard_normal(unit.shape[:2])
        similarity[part] = OFFSET[:channels] + SCALE[:channels] * unit
        confidence[part] = -np.logaddexp(0, -2 * value)
    similarity.flush()
    confidence.flush()


def measure(folder: Path, channels: int, scope: str, steps: int | None) -> dict[str, Any]:
    """One training in this process."""
    config = yaml.safe_load(CONFIG.read_text())
    settings, data = config["model"]["init_args"], config["data"]["init_args"]
    trainer: dict[str, Any] = dict(config["trainer"])
    if steps is not None:
        trainer |= {"max_steps": steps, "val_check_interval": steps}
    imported_mb = _peak_mb()
    start, busy = time.perf_counter(), time.process_time()
    served = Kept(folder, channels, data["batch_size"], data["eval_batch_size"])
    opened = time.perf_counter()
    fusion = settings["fusion"]["init_args"] | {"channels": list(CHANNELS[:channels]), "scope": scope}
    optimizer = partial(torch.optim.Adam, **settings["optimizer"]["init_args"])
    stage = FusionNce(WeightedSimilarities(**fusion), optimizer, Schedule(**settings["schedule"]), settings["loss"])
    with TemporaryDirectory() as runs:
        best = ModelCheckpoint(Path(runs) / "checkpoints", "best-{step}", "val/loss", save_on_train_epoch_end=False)
        trainer |= {"enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0}
        trainer |= {"logger": AppendingCSVLogger(runs), "callbacks": [best, LastCheckpoint()]}
        fitter = L.Trainer(accelerator="cpu", devices=1, default_root_dir=runs, plugins=[AtomicCheckpointIO()], **trainer)
        fitter.fit(stage, datamodule=served)
    done = time.perf_counter()
    direction = _direction(stage.fusion.shared_weights().detach().numpy())
    return {
        "seconds": round(done - start, 2),
        "open_seconds": round(opened - start, 2),
        "fit_seconds": round(done - opened, 2),
        "cpu_seconds": round(time.process_time() - busy, 2),
        "steps": fitter.global_step,
        "epochs": round(fitter.global_step * data["batch_size"] / len(served.parts["train"]), 2),
        "peak_rss_mb": round(_peak_mb()),
        "imported_rss_mb": round(imported_mb),
        "planted_cosine": round(float(direction @ _direction(PLANTED[:channels])), 5),
        "loss": round(float(fitter.callback_metrics["val/loss"]), 4),
    }


def loop_seconds(items: FusionItems, visits: int, batch_size: int, rounds: int) -> float:
    """The plain peer: query by query in torch, a step a batch; the median round, extrapolated to all visits of queries."""
    weight = torch.full((len(items.channels),), 1 / len(items.channels), requires_grad=True)
    optimizer = torch.optim.Adam([weight], lr=2e-2)
    size = min(batch_size, len(items))
    spent = []
    for number in range(rounds):
        start = time.perf_counter()
        optimizer.zero_grad()
        losses = []
        for n in range(number * size, (number + 1) * size):
            cosine = torch.from_numpy(np.array(items.similarity_NKM[n % len(items)]))
            confidence = torch.from_numpy(np.array(items.log_confidence_NK[n % len(items)]))
            score = ((cosine - cosine.mean(0)) / cosine.std(0, correction=0)) @ weight / TAU
            order = confidence.argsort(descending=True)
            shown = torch.cat([score[order[:1]], score[order[-NEGATIVES:]]])
            losses.append(-shown.log_softmax(0)[0])
        torch.stack(losses).mean().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        spent.append((time.perf_counter() - start) / size)
    return statistics.median(spent) * visits


def lbfgs_seconds(items: FusionItems) -> tuple[float, float]:
    """The strong peer: scipy's L-BFGS over all queries at once; seconds, and the cosine with the planted weights."""
    from scipy.optimize import minimize

    start = time.perf_counter()
    cosine = np.asarray(items.similarity_NKM)
    scaled = (cosine - cosine.mean(1, keepdims=True)) / cosine.std(1, keepdims=True)
    rank, pool = items.rank_NK, cosine.shape[1]
    order = np.argsort(rank, axis=1)[:, [0, *range(pool - min(NEGATIVES, pool - 1), pool)]]
    shown = np.take_along_axis(scaled, order[..., None], axis=1)

    def value(weight: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        logit = shown @ weight.astype(np.float32) / TAU
        share = np.exp(logit - logit.max(1, keepdims=True))
        share /= share.sum(1, keepdims=True)
        loss = -np.log(np.maximum(share[:, 0], 1e-30)).mean(dtype=np.float64)
        share[:, 0] -= 1
        return float(loss), np.einsum("nk,nkm->m", share, shown) / (TAU * len(shown))

    found = minimize(value, np.full(cosine.shape[2], 1 / cosine.shape[2]), jac=True, method="L-BFGS-B")
    planted = _direction(PLANTED[: cosine.shape[2]])
    return time.perf_counter() - start, float(_direction(found.x) @ planted)


def _direction(weight: NDArray[Any]) -> NDArray[Any]:
    length: float = float(np.linalg.norm(weight))
    return weight / length


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _child(folder: Path, channels: int, chosen: argparse.Namespace) -> dict[str, Any]:
    command = [sys.executable, __file__, "--measure", str(folder), "--channels", str(channels), "--scope", chosen.scope]
    command += [] if chosen.steps is None else ["--steps", str(chosen.steps)]
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    spent = time.perf_counter() - start
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    told: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return {**told, "process_seconds": round(spent, 2)}


def main(argv: Sequence[str] | None = None) -> None:
    """Measures, and prints one line of JSON last."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--queries", type=int, default=100_000)
    parser.add_argument("--validation", type=int, default=5_000)
    parser.add_argument("--candidates", type=int, default=50, help="K")
    parser.add_argument("--steps", type=int, help="instead of the config's")
    parser.add_argument("--rounds", type=int, default=3, help="of the loop that is extrapolated")
    parser.add_argument("--scope", default="global", choices=["global", "per_modality", "per_query"])
    parser.add_argument("--measure", help="a folder of arrays: train on it in this process (used by the script itself)")
    parser.add_argument("--channels", type=int, default=3)
    chosen = parser.parse_args(argv)
    warnings.filterwarnings("ignore")
    for name in ("lightning.pytorch", "lightning.pytorch.utilities.rank_zero", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    if chosen.measure:
        print(json.dumps(measure(Path(chosen.measure), chosen.channels, chosen.scope, chosen.steps)))
        return
    with TemporaryDirectory() as name:
        folder, found = Path(name), {}
        for channels in (3, 4):
            for part, count, seed in (("train", chosen.queries, 0), ("val", chosen.validation, 1)):
                write_arrays(folder / part, count, chosen.candidates, channels, seed)
            found[channels] = _child(folder, channels, chosen)
        items = _opened(folder / "train", 3)
        batch_size = yaml.safe_load(CONFIG.read_text())["data"]["init_args"]["batch_size"]
        loop = loop_seconds(items, found[3]["steps"] * batch_size, batch_size, chosen.rounds)
        lbfgs, cosine = lbfgs_seconds(items)
    names = ("queries", "validation", "candidates", "scope")
    report: dict[str, Any] = {name: getattr(chosen, name) for name in names} | {"threads": torch.get_num_threads()}
    report |= {name: max(one[name] for one in found.values()) for name in ("seconds", "peak_rss_mb")}
    report |= {f"channels_{channels}": one for channels, one in found.items()}
    report |= {"loop_seconds_extrapolated": round(loop, 1), "ratio_loop": round(loop / found[3]["seconds"], 1)}
    report |= {"lbfgs_seconds": round(lbfgs, 2), "lbfgs_planted_cosine": round(cosine, 5)}
    print(json.dumps(report | {"ratio_lbfgs": round(lbfgs / found[3]["seconds"], 2)}))


if __name__ == "__main__":
    main()
