"""The candidate re-ranker against learned fusion and the oracle, from runs of stage `fusion_nce` (recipe mrrag: step `fusion`).

For every run: its K best candidates by the learned fusion, the score table that the run learned from, a fit of
configs/stages/candidate_reranker.yaml on the training questions, and the closed test questions answered by mixtures of what the
frozen reader says with each of the K: weighed alike (uniform), by the fusion's scores (fused; temperature by validation
likelihood), by the re-ranker, and by the re-ranker with features that were shuffled between a question's candidates (permuted;
trained and tested so). The oracle is right where any candidate alone is: it counts lucky guesses, too. So its own chance level
stands beside it: how often some candidate would be right if each question's candidates were exchanged with those of another
question with the same choices. No reader runs.

`adaptive`: the share a of candidates that the image found, for --adaptive with sources of image and text channels (MIRA):
a in {0, 1/2, 1}, learned, by question. Runs are then read by their pool (LiveSearch) in the place of the fused search.

Numbers are means over runs; intervals are percentile bootstraps over patients. Prints one line of JSON last.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import json
import logging
import os
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
from jsonargparse import ArgumentParser
from lightning.pytorch.callbacks import ModelCheckpoint
from over_seeds import cell, interval, mean_of  # type: ignore[import-not-found]
from torch import Tensor

from medrag_lightning import losses
from medrag_lightning.batches import CandidateBatch
from medrag_lightning.data.candidate_feed import CandidateFeed, CandidateItems
from medrag_lightning.data.fusion_feed import FusionPlan
from medrag_lightning.data.module import MedragData
from medrag_lightning.metrics.bootstrap import Floats, Statistic, ratio, weighted_mean
from medrag_lightning.models.candidate_reranker import CandidateReranker, TrainedCandidateReranker
from medrag_lightning.models.similarity_fusion import TrainedFusion
from medrag_lightning.records import Split
from medrag_lightning.stages.base import Schedule
from medrag_lightning.stages.candidate_metrics import candidates_right, weighing_metrics
from medrag_lightning.stages.candidate_reranker import CandidateRerankerStage

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "configs" / "stages" / "candidate_reranker.yaml"
TEMPERATURES = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
SYSTEMS = ("uniform", "fused", "re-ranked", "permuted", "oracle")
GATES: tuple[float | str, ...] = (0.0, 0.5, 1.0, "learned", "by_question")
Parts = dict[str, CandidateItems]


def read_run(run: Path, top: int | None) -> tuple[Parts, dict[str, tuple[str, str]]]:
    """Scored candidates by split of a run of stage `fusion_nce`, and (patient, need) of every test question.

    With `top` they are the first so many by the run's learned fusion; None: those of its own source.
    """
    told = yaml.safe_load(os.path.expandvars((run / "config.yaml").read_text(encoding="utf-8")))["data"]
    settings = told["init_args"]
    table = settings.pop("fusion")["table"]
    if top is not None:
        best = next(iter(sorted((run / "checkpoints").glob("best-*.ckpt"))))
        learned = {"class_path": f"{TrainedFusion.__module__}.TrainedFusion", "init_args": {"checkpoint": str(best)}}
        search = {"pool": settings["source"], "fusion": learned, "top": top}
        settings["source"] = {"class_path": "medrag_lightning.retrieval.fused.FusedSearch", "init_args": search}
    parser = ArgumentParser()
    parser.add_subclass_arguments(MedragData, "data")
    data: MedragData = parser.instantiate(parser.parse_object({"data": told})).data
    data.prepare_data()
    data.setup("fit")
    feed = CandidateFeed(data.world(), FusionPlan(table=table))
    units = {query.id: (query.patient_id or query.id, query.need or "") for query in data.split_queries(Split.TEST)}
    return {"train": feed.training(), "val": feed.validation(False)[0], "test": feed.test()[0]}, units


def shuffled(items: CandidateItems, seed: int) -> CandidateItems:
    """The same with features exchanged between the candidates of a question, all of a candidate's together."""
    made, rng = copy.copy(items), np.random.default_rng(seed)
    batch = items.everything
    order_BK = np.tile(np.arange(batch.valid_BK.shape[1]), (len(batch), 1))
    for row, count in enumerate(batch.valid_BK.sum(1).tolist()):
        order_BK[row, :count] = rng.permutation(count)
    order = torch.from_numpy(order_BK)
    features = batch.feature_BKF.gather(1, order[..., None].expand_as(batch.feature_BKF))
    made.everything = dataclasses.replace(batch, feature_BKF=features, by_image_BK=batch.by_image_BK.gather(1, order))
    return made


class Served(L.LightningDataModule):
    """Items as the data module serves them; batches are drawn with replacement from a generator of their own."""

    def __init__(self, parts: Parts, batch_size: int, seed: int) -> None:
        super().__init__()
        self.parts, self.batch_size, self.seed = parts, batch_size, seed

    def train_dataloader(self) -> Any:
        """Shuffled batches."""
        items, draw = self.parts["train"], torch.Generator().manual_seed(self.seed)
        places = torch.utils.data.RandomSampler(items, generator=draw)
        batches = torch.utils.data.BatchSampler(places, self.batch_size, drop_last=False)
        return torch.utils.data.DataLoader(_Places(items), sampler=batches, batch_size=None)

    def val_dataloader(self) -> Any:
        """All validation questions at once."""
        return torch.utils.data.DataLoader(
            _Places(self.parts["val"]), sampler=[list(range(len(self.parts["val"])))], batch_size=None
        )


class _Places(torch.utils.data.Dataset[CandidateBatch]):
    """Items by their places."""

    def __init__(self, items: CandidateItems) -> None:
        self.items, self.everything = items, items.everything

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, places: Any) -> CandidateBatch:
        return self.everything.at(torch.tensor(places))


def fitted(parts: Parts, seed: int, **changed: Any) -> CandidateReranker:
    """A re-ranker with the settings of the stage's config and these changes, the best by validation likelihood."""
    config = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))
    settings, trainer = config["model"]["init_args"], config["trainer"]
    torch.manual_seed(seed)
    network = CandidateReranker(**settings["reranker"]["init_args"] | changed)
    optimizer = partial(torch.optim.AdamW, **settings["optimizer"]["init_args"])
    stage = CandidateRerankerStage(network, optimizer, Schedule(**settings["schedule"]), settings["listwise"], seed)
    with TemporaryDirectory() as folder:
        best = ModelCheckpoint(folder, "best", "val/loss", save_on_train_epoch_end=False)
        plain: dict[str, Any] = {
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "logger": False,
            "num_sanity_val_steps": 0,
        }
        fitter = L.Trainer(accelerator="cpu", default_root_dir=folder, callbacks=[best], **trainer, **plain)
        fitter.fit(stage, datamodule=Served(parts, config["data"]["init_args"]["batch_size"], seed))
        return TrainedCandidateReranker(best.best_model_path).loaded()


def fused_weights(batch: CandidateBatch, temperature: float) -> Tensor:
    """log w (B, K): softmax of the retrieval scores."""
    return losses.retriever_logp(batch.score_BK, batch.valid_BK, temperature)


def answered(parts: Parts, seed: int) -> dict[str, tuple[Tensor, Tensor]]:
    """Right or wrong, and the NLL, of every test question by system; NaN for open questions."""
    test, val = parts["test"].everything, parts["val"].everything
    nll = [float(weighing_metrics(fused_weights(val, t), val)["nll"].mean()) for t in TEMPERATURES]
    temperature = TEMPERATURES[int(np.argmin(nll))]
    mine, control = (
        fitted(parts, seed),
        {name: shuffled(items, seed + place) for place, (name, items) in enumerate(parts.items())},
    )
    permuted = fitted(control, seed)
    with torch.no_grad():
        weights = {"uniform": fused_weights(test, 1e9), "fused": fused_weights(test, temperature)}
        weights |= {"re-ranked": mine.log_weights(test), "permuted": permuted.log_weights(control["test"].everything)}
    found = {name: weighing_metrics(logw_BK, test) for name, logw_BK in weights.items()}
    made = {name: (one["accuracy"], one["nll"]) for name, one in found.items()}
    best_B = -test.gold_logp_BK.masked_fill(~test.valid_BK, -torch.inf).amax(1)
    right_B = candidates_right(test).any(1).float()
    return made | {"oracle": (torch.where(test.gold_B >= 0, right_B, torch.nan), best_B)}


def oracle_by_chance(batch: CandidateBatch, rounds: int = 20) -> float:
    """How often some candidate is right when closed questions are given the candidates of another with as many choices."""
    rng, right = np.random.default_rng(0), []
    said_BK = torch.where(batch.valid_BK, batch.logp_BKC.argmax(-1), -2)
    choices_B = torch.isfinite(batch.logp_BKC[:, 0]).sum(1)
    for count in torch.unique(choices_B[batch.gold_B >= 0]).tolist():
        rows = torch.nonzero((choices_B == count) & (batch.gold_B >= 0))[:, 0].numpy()
        for _ in range(rounds):
            right.append((said_BK[rng.permutation(rows)] == batch.gold_B[rows][:, None]).any(1).float().numpy())
    return float(np.concatenate(right).mean())


def share_closed(fused: Floats, mine: Floats, oracle: Floats) -> Statistic:
    """(mine - fused) / (oracle - fused), each the sum over runs (R, N) and questions."""

    def statistic(weights_FN: Floats) -> Floats:
        return ratio(weights_FN @ (mine - fused).sum(0), weights_FN @ (oracle - fused).sum(0))

    return statistic


def report(runs: Sequence[Path], top: int) -> dict[str, Any]:
    """Trains and prints the table; gives its figures."""
    found, chance = [], []
    units: dict[str, tuple[str, str]] = {}
    for seed, run in enumerate(runs):
        parts, units = read_run(run, top)
        ids = parts["test"].query_ids
        closed = (parts["test"].everything.gold_B >= 0).numpy()
        found.append(answered(parts, seed))
        chance.append(oracle_by_chance(parts["test"].everything))
    kept = [name for name, there in zip(ids, closed, strict=True) if there]
    patients = [units[name][0] for name in kept]
    right = {name: np.array([one[name][0].numpy()[closed] for one in found], np.float64) for name in SYSTEMS}
    nll = {name: np.array([one[name][1].numpy()[closed] for one in found], np.float64) for name in SYSTEMS}
    told: dict[str, Any] = {"top": top, "questions": len(kept), "runs": len(runs), "oracle_by_chance": float(np.mean(chance))}
    print(f"\n| {len(kept)} closed questions, {len(runs)} runs, K={top} | accuracy | NLL, nats |\n|---|---|---|")
    for name in SYSTEMS:
        told[name] = [interval(mean_of([weighted_mean(row) for row in of[name]]), patients) for of in (right, nll)]
        print(f"| {name} | {cell(told[name][0])} | {cell(told[name][1])} |")
    print(f"| oracle, candidates of other questions | {told['oracle_by_chance']:.3f} | |")
    for name in ("re-ranked", "permuted", "uniform"):
        gain = mean_of([weighted_mean(row) for row in right[name] - right["fused"]])
        told[f"{name} minus fused"] = interval(gain, patients)
        told[f"{name}: share of the gap"] = interval(share_closed(right["fused"], right[name], right["oracle"]), patients)
        told[f"{name}: share of the gap in NLL"] = interval(share_closed(nll["fused"], nll[name], nll["oracle"]), patients)
        print(
            f"{name} minus fused {cell(told[f'{name} minus fused'], True)}; closes {cell(told[f'{name}: share of the gap'])} "
            f"of the gap in accuracy, {cell(told[f'{name}: share of the gap in NLL'])} in NLL"
        )
    _by_need(right, [units[name][1] for name in kept])
    return told


def _by_need(right: dict[str, Floats], needs: Sequence[str]) -> None:
    for need in sorted(set(needs)):
        mine = np.array([one == need for one in needs])
        row = ", ".join(f"{name} {values[:, mine].mean():.3f}" for name, values in right.items())
        print(f"  {need or 'all'} ({mine.sum()}): {row}")


def adaptive(runs: Sequence[Path]) -> dict[str, Any]:
    """MIRA's gate over image and text evidence of each run's own pool: accuracy, NLL and the mean share by kind of question."""
    right: dict[str, list[Any]] = {str(gate): [] for gate in GATES}
    told: dict[str, Any] = {}
    shares: dict[str, list[Any]] = {name: [] for name in ("learned", "by_question")}
    for seed, run in enumerate(runs):
        parts, units = read_run(run, None)
        test = parts["test"].everything
        needs = [units[name][1] for name in parts["test"].query_ids]
        closed = (test.gold_B >= 0).numpy()
        for gate in GATES:
            network = fitted(parts, seed, gate=gate)
            with torch.no_grad():
                found, share_B = weighing_metrics(network.log_weights(test), test), network.image_share(test)
            right[str(gate)].append(found["accuracy"].numpy()[closed])
            if isinstance(gate, str) and share_B is not None:
                shares[gate].append(share_B.numpy())
        patients = [units[name][0] for name, there in zip(parts["test"].query_ids, closed, strict=True) if there]
    print("\n| share a of candidates that the image found | accuracy | minus a = 1/2 |\n|---|---|---|")
    half = np.array(right["0.5"])
    for name, rows in right.items():
        gain = interval(mean_of([weighted_mean(row) for row in np.array(rows) - half]), patients)
        told[name] = [interval(mean_of([weighted_mean(row) for row in rows]), patients), gain]
        print(f"| {name} | {cell(told[name][0])} | {cell(gain, True)} |")
    for need in sorted(set(needs)):
        mine = np.array([one == need for one in needs])
        told[f"a, {need}"] = float(np.mean([row[mine].mean() for row in shares["by_question"]]))
        print(f"  a by question, need {need or 'all'}: {told[f'a, {need}']:.3f}")
    return told


def main(argv: Sequence[str] | None = None) -> None:
    """Trains, measures, and prints one line of JSON last."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="folders of runs of stage fusion_nce, one a seed; their paths hold")
    parser.add_argument("--top", type=int, default=8, help="K, of the fused search")
    parser.add_argument("--adaptive", action="store_true", help="the gate's ablation over the runs' own pools instead")
    chosen = parser.parse_args(argv)
    warnings.filterwarnings("ignore")
    for name in ("lightning.pytorch", "lightning.pytorch.utilities.rank_zero", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    started = time.monotonic()
    told = adaptive(chosen.runs) if chosen.adaptive else report(chosen.runs, chosen.top)
    print(json.dumps(told | {"seconds": round(time.monotonic() - started, 1)}))


if __name__ == "__main__":
    main()
