"""The child process of `cli.plan`: runs a few real batches of a configuration and writes down what they took.

``python -m medrag_lightning.cli.plan_probe VERB RESULT.json STARTED ARGUMENTS...``; it writes nothing of the run itself.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities.model_helpers import is_overridden

from medrag_lightning.artifacts import write_json
from medrag_lightning.cli.outcome import is_users, tell
from medrag_lightning.cli.plan_batches import EvaluationProbe, TrainingProbe, evaluation_probes
from medrag_lightning.cli.plan_figures import Probe
from medrag_lightning.cli.plan_measure import Measure, OutOfRoomError, Phase, memory_now
from medrag_lightning.cli.plan_store import folder_bytes, settle_store, vector_bytes
from medrag_lightning.cli.plan_weights import WeightsTooLargeError, refuse_large_weights
from medrag_lightning.cli.verbs import MedragCLI, read_command

KEPT = ("callbacks.threads.CpuThreads", "callbacks.predictions_writer.PredictionsWriter")
SAVED = "checkpoint.ckpt"
SIGN = "@plan "  # before what the parent passes on to the user


class ProbeCLI(MedragCLI):
    """Builds the parts as the verb would, with a trainer that leaves nothing behind; `asked` is the trainer's configuration."""

    folder: Path

    def before_instantiate_classes(self) -> None:
        """Settles the trainer: one process, a temporary folder, and of the callbacks those that cost time or memory."""
        assert self.subcommand is not None
        config = self.config[self.subcommand]
        self.asked = config.trainer.clone()
        config.ckpt_path = None
        changes: dict[str, Any] = {
            "default_root_dir": str(self.folder),
            "callbacks": [one for one in config.trainer.callbacks or [] if one.class_path in KEPT],
            "logger": False,
            "max_epochs": 1,
            "max_steps": -1,
            "max_time": None,
            "accumulate_grad_batches": min(2, config.trainer.accumulate_grad_batches),
            "val_check_interval": None,
            "check_val_every_n_epoch": 1,
            "limit_train_batches": None,
            "devices": 1,
            "num_nodes": 1,
            "fast_dev_run": False,
            "overfit_batches": 0.0,
            "num_sanity_val_steps": 0,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "strategy": "auto",
        }
        for key, value in changes.items():
            config.trainer[key] = value


def main(argv: list[str]) -> None:
    """Probes, and writes ``{"probe": ...}`` or ``{"failure": kind, "text": ...}``."""
    verb, result, started = argv[0], Path(argv[1]), float(argv[2])
    _volunteer()
    try:
        with tempfile.TemporaryDirectory(prefix="medrag-plan-") as folder:
            found: dict[str, Any] = {"probe": asdict(probe_of(verb, argv[3:], Path(folder), started))}
    except (torch.cuda.OutOfMemoryError, MemoryError, WeightsTooLargeError) as error:
        found = {"failure": "memory", "text": (str(error) or "MemoryError").splitlines()[0]}
    except Exception as error:
        if not is_users(error):
            raise
        found = {"failure": "user", "text": str(error)}
    write_json(result, found)


def probe_of(verb: str, arguments: list[str], folder: Path, started: float) -> Probe:
    """Measures a run of `verb`. A stage that only predicts is asked to predict, whatever the verb."""
    ProbeCLI.folder = folder
    say("building the parts of the run")
    cli: Any = read_command("fit", arguments, ProbeCLI)
    stage, data = cli.model, cli.datamodule
    trains = is_overridden("training_step", stage, L.LightningModule)
    verb = verb if trains else "predict"
    probe = Probe(verb=verb, stage=getattr(stage, "stage_name", type(stage).__name__))
    probe.base_bytes = memory_now()
    refuse_large_weights(stage)
    _keep_out_of_the_way(data, folder)
    feed = getattr(stage, "feed", "")
    if feed == "corpus":
        probe.store, probe.store_bytes = "embedded", vector_bytes(stage.encoder, data.documents())
    elif feed != "pairs":
        say("looking at the evidence store")
        settle_store(data, folder, probe)
    probe.documents = len(data.documents())
    probe.queries = {split: len(data.split_queries(split)) for split in ("train", "val", "test")}
    if probe.stage == "critical_layers":
        probe.notes.append("not counted: after reading, each question is read again, 4 times as often as there are layers")
    plan = _read_asked(cli.asked, probe)
    _run(cli, verb, plan, probe, started)
    return probe


def _run(cli: Any, verb: str, plan: dict[str, Any], probe: Probe, started: float) -> None:
    """Runs the batches of a fit and of the test after it, or of another verb."""
    stage, data, trainer = cli.model, cli.datamodule, cli.trainer
    measure = Measure(probe, started, say)
    trainer.callbacks.append(measure)
    probes: dict[Phase, list[EvaluationProbe]] = {}
    serve_in_place(data, probes, measure)
    if verb == "fit":
        _fit(cli, probe)
    elif verb == "predict":
        trainer.predict(stage, datamodule=data, return_predictions=False)
    else:
        getattr(trainer, verb)(stage, datamodule=data, verbose=False)
    measure.finish(probes)
    probe.device = torch.cuda.get_device_name() if trainer.strategy.root_device.type == "cuda" else "cpu"
    written = folder_bytes(ProbeCLI.folder / "predictions") if (ProbeCLI.folder / "predictions").is_dir() else 0
    seen = sum(one.samples for loaders in probes.values() for loader in loaders for one in loader.served)
    probe.prediction_bytes = written / seen if seen else 0.0
    if probe.store == "built":
        probe.store_bytes = folder_bytes(data.evidence_folder())
    _limit(probe, plan)


def _fit(cli: Any, probe: Probe) -> None:
    """Training with a validation, a checkpoint, and the test; training alone where memory would run out."""
    stage, data, trainer = cli.model, cli.datamodule, cli.trainer
    try:
        trainer.fit(stage, datamodule=data)
    except OutOfRoomError:
        probe.notes.append("memory would have run out: larger batches were computed, and nothing was evaluated")
        return
    _save(trainer, probe)
    if cli.config["fit"].test_after_fit and is_overridden("test_step", stage, L.LightningModule):
        trainer.test(stage, datamodule=data, verbose=False)


def serve_in_place(data: Any, probes: dict[Phase, list[EvaluationProbe]], measure: Measure) -> None:
    """Puts probes in the place of the data module's loaders."""
    make_training = data.train_dataloader
    makers: dict[Phase, Any] = {phase: getattr(data, f"{phase}_dataloader") for phase in ("val", "test", "predict")}

    def training() -> TrainingProbe:
        measure.training = TrainingProbe(make_training(), data.batch_size)
        return measure.training

    def evaluation(phase: Phase) -> Any:
        def make() -> list[EvaluationProbe]:
            probes[phase] = measure.loaders[phase] = evaluation_probes(makers[phase], phase)
            return probes[phase]

        return make

    data.train_dataloader = training
    for phase in makers:
        setattr(data, f"{phase}_dataloader", evaluation(phase))


def _keep_out_of_the_way(data: Any, folder: Path) -> None:
    """What a feed would write while it is made goes to the temporary folder, unless it is there already."""
    for plan, key in (("preference", "folder"), ("fusion", "cache")):
        settings: Any = getattr(data, plan, None)
        place = getattr(settings, key, None)
        if place is not None and not Path(str(place)).is_dir():
            setattr(data, plan, replace(settings, **{key: str(folder / plan)}))


def _save(trainer: Any, probe: Probe) -> None:
    say("writing a checkpoint")
    path = ProbeCLI.folder / SAVED
    began = time.perf_counter()
    trainer.save_checkpoint(path)
    probe.checkpoint_seconds, probe.checkpoint_bytes = time.perf_counter() - began, path.stat().st_size
    path.unlink()


def _read_asked(asked: Any, probe: Probe) -> dict[str, Any]:
    """What the run's own trainer was told; the limits of its loaders are given back."""
    devices = asked.devices
    count = len(devices) if isinstance(devices, list) else int(devices) if str(devices).lstrip("-").isdigit() else -1
    probe.processes = (count if count > 0 else max(1, torch.cuda.device_count())) * int(asked.num_nodes)
    probe.accumulate, probe.precision = int(asked.accumulate_grad_batches), str(asked.precision)
    probe.epochs = 1000 if asked.max_epochs is None and asked.max_steps < 0 else asked.max_epochs
    probe.max_steps, probe.val_every_epochs = int(asked.max_steps), asked.check_val_every_n_epoch
    probe.val_interval = 1.0 if asked.val_check_interval is None else asked.val_check_interval
    if "FSDP" in str(asked.strategy) or "ModelParallel" in str(asked.strategy) or "deepspeed" in str(asked.strategy):
        probe.notes.append("the strategy shares weights out over devices; told is what one device would hold without that")
    for one in asked.callbacks or []:
        name, told = one.class_path.rpartition(".")[2], one.get("init_args") or {}
        if name == "ModelCheckpoint":
            top = told.get("save_top_k", 1)
            probe.checkpoints_kept += max(0, top) + bool(told.get("save_last"))
        elif name == "LastCheckpoint":
            probe.checkpoints_kept += 1
            probe.checkpoint_every = int(told.get("every_n_steps", 50))
    names = ("train", "val", "test", "predict")
    return {name: getattr(asked, f"limit_{name}_batches") for name in names}


def _limit(probe: Probe, plan: dict[str, Any]) -> None:
    """The batches that ``limit_train_batches`` and its like leave."""
    probe.train_batches = _left(probe.train_batches, plan["train"])
    for one in probe.evaluations:
        batches = _left(one.batches, plan[one.phase])
        one.items = one.items * batches // max(1, one.batches)
        one.batches = batches


def _left(batches: int, limit: int | float | None) -> int:
    if limit is None:
        return batches
    return min(batches, limit) if isinstance(limit, int) else int(batches * limit)


def _volunteer() -> None:
    """When the system runs out of memory, it shall end this process and no other."""
    try:
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    except OSError:
        return


def say(text: str) -> None:
    """A line for the user, by way of the parent."""
    tell(SIGN + json.dumps(text), sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1:])
