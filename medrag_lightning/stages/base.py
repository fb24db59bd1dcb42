"""What every stage shares: which parameters train, the schedule, and a checkpoint that holds only what is trained."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import lightning as L
import torch
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.plugins import MixedPrecision, Precision
from lightning.pytorch.strategies import ModelParallelStrategy
from lightning.pytorch.utilities import GradClipAlgorithmType
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from medrag_lightning import __version__
from medrag_lightning.artifacts import counter_rng
from medrag_lightning.checkpoint_files import load_whole
from medrag_lightning.stages import sharding

CHECKPOINT_KEY = "medrag"
OTHER_PARTS = {"joint": {"reader_raft": "heads.", "retriever_kl": "reader."}}
"""What a checkpoint of the first stage holds that the second, which reads it, has no place for."""


@dataclass(frozen=True)  # no slots: the command line reads defaults through vars()
class Schedule:
    """Learning rate over the run: linear warm-up, then `shape` down to `floor` times the peak.

    Args:
        shape: cosine, linear or constant.
        warmup_share: share of all optimizer steps spent warming up.
        floor: last learning rate as a share of the peak.
    """

    shape: Literal["cosine", "linear", "constant"] = "cosine"
    warmup_share: float = 0.1
    floor: float = 0.0

    def __post_init__(self) -> None:
        for name in ("warmup_share", "floor"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"schedule {name} must be in [0, 1), got {getattr(self, name)}")

    def factor(self, step: int, total: int) -> float:
        """Learning rate at `step` of `total`, relative to the peak."""
        warmup = int(self.warmup_share * total)
        if step < warmup:
            return (step + 1) / (warmup + 1)
        done = min(1.0, (step - warmup) / max(1, total - warmup))
        fall = {"cosine": 0.5 * (1 + math.cos(math.pi * done)), "linear": 1 - done, "constant": 1.0}[self.shape]
        return self.floor + (1 - self.floor) * fall


class Stage(L.LightningModule):
    """Base of the stages. A subclass sets `stage_name` and says in `describe` what its checkpoint depends on.

    `reads` names other stages whose checkpoints describe and hold the same: this stage may evaluate their weights and start
    from them. It never resumes them.
    """

    stage_name: ClassVar[str]
    reads: ClassVar[tuple[str, ...]] = ()

    def __init__(self, optimizer: OptimizerCallable, schedule: Schedule, seed: int) -> None:
        super().__init__()
        self.strict_loading = False  # frozen weights come from their own files; `on_load_checkpoint` checks the rest
        self.make_optimizer, self.schedule, self.seed = optimizer, schedule, seed
        self._reader_is_sharded = False

    def describe(self) -> dict[str, Any]:
        """Plain JSON that rebuilds what this stage trains; stored in the checkpoint."""
        raise NotImplementedError

    def accept(self, description: dict[str, Any]) -> None:
        """Rebuilds from a checkpoint's description, or raises ValueError where it contradicts this stage's settings."""
        raise NotImplementedError

    def trainable_names(self) -> set[str]:
        """Names of the parameters that train."""
        return {name for name, parameter in self.named_parameters() if parameter.requires_grad}

    def parameter_groups(self, trainable: list[nn.Parameter]) -> Any:
        """What the optimizer is made over: the trainable parameters, or groups of them with a learning rate each."""
        return trainable

    def configure_optimizers(self) -> Any:
        """The optimizer over the trainable parameters alone, and the schedule by step."""
        trainable = [parameter for parameter in self.parameters() if parameter.requires_grad]
        if not trainable:
            raise ValueError(f"stage {self.stage_name}: nothing is trainable; check the reader's adapter and freeze settings")
        optimizer = self.make_optimizer(self.parameter_groups(trainable))
        if self._unscales_itself(optimizer):
            raise ValueError(
                f"--trainer.precision {self.trainer.precision}: a fused optimizer undoes the scaling of gradients itself, so "
                "they cannot be clipped before; add --model.init_args.optimizer.init_args.fused false, or take bf16-mixed"
            )
        total = int(self.trainer.estimated_stepping_batches)
        scheduler = LambdaLR(optimizer, lambda step: self.schedule.factor(step, total))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """As Lightning, and also for fused optimizers in bf16-mixed: it refuses those because of a scaler that is not there."""
        plugin = self.trainer.precision_plugin
        if isinstance(plugin, MixedPrecision) and plugin.scaler is None:
            how = GradClipAlgorithmType(gradient_clip_algorithm or GradClipAlgorithmType.NORM)
            Precision.clip_gradients(plugin, optimizer, gradient_clip_val or 0.0, how)
        else:
            super().configure_gradient_clipping(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def _unscales_itself(self, optimizer: Optimizer) -> bool:
        """Whether gradients that are to be clipped are still scaled then (16-mixed with a fused optimizer)."""
        scaled = getattr(self.trainer.precision_plugin, "scaler", None) is not None
        return scaled and bool(self.trainer.gradient_clip_val) and getattr(optimizer, "_step_supports_amp_scaling", False)

    def shard_reader(self, reader: Any) -> None:
        """Shares the reader's weights out over processes where the strategy is ModelParallelStrategy (FSDP2)."""
        self._reader_is_sharded = isinstance(self.trainer.strategy, ModelParallelStrategy)
        if self._reader_is_sharded:
            if self.trainer.strategy._save_distributed_checkpoint:  # type: ignore[attr-defined]
                raise ValueError("ModelParallelStrategy would save in pieces: set save_distributed_checkpoint: false")
            sharding.shard(reader, self.device_mesh)

    def on_validation_start(self) -> None:
        """Gathers a sharded reader, once for the whole pass."""
        self._gather_reader(True)

    def on_validation_end(self) -> None:
        """Gives the gathered weights back."""
        self._gather_reader(False)

    def on_test_start(self) -> None:
        """As before validation."""
        self._gather_reader(True)

    def on_predict_start(self) -> None:
        """As before validation."""
        self._gather_reader(True)

    def _gather_reader(self, whole: bool) -> None:
        if self._reader_is_sharded:
            reader: Any = self.reader
            sharding.gather(reader) if whole else sharding.release(reader)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Seeds dropout by (epoch, batch, process): a resumed run draws what an uninterrupted one would have drawn."""
        rng = counter_rng(self.seed, "step", self.current_epoch, batch_idx, self.global_rank)
        seed = int(rng.integers(2**62))
        if self.device.type == "cpu":
            torch.default_generator.manual_seed(seed)
        else:  # also remembers a stack trace for a GPU that is not in use yet
            torch.manual_seed(seed)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keeps what trains, and names the stage."""
        keep = self.trainable_names()
        checkpoint["state_dict"] = {k: v for k, v in checkpoint["state_dict"].items() if k in keep}
        checkpoint[CHECKPOINT_KEY] = {"stage": self.stage_name, "version": __version__, "description": self.describe()}
        checkpoint[CHECKPOINT_KEY]["trained"] = sorted(keep)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuses another stage's checkpoint (where training is not resumed: but for `reads`) and one that lacks a weight."""
        resumes = self._trainer is not None and self._trainer.state.fn == "fit"
        stages = (self.stage_name, *(() if resumes else self.reads))
        self.accept(checked_description(checkpoint, stages, "the checkpoint given as --ckpt_path"))
        # A strategy that shards has loaded the weights itself, and taken them out.
        self._check_names(self.own_part(checkpoint, checkpoint.get("state_dict") or checkpoint[CHECKPOINT_KEY]["trained"]))

    def load_weights_from(self, path: str) -> None:
        """Starts from another run's checkpoint: weights only; step, optimizer and data position begin anew."""
        description, weights = read_checkpoint(path, (self.stage_name, *self.reads), self.stage_name)
        self.accept(description)
        self._check_names(weights)
        self.load_state_dict(weights, strict=False)

    def own_part(self, checkpoint: dict[str, Any], names: Iterable[str]) -> list[str]:
        """The names in a checkpoint of `reads` that are meant for this stage."""
        return own_names(checkpoint[CHECKPOINT_KEY]["stage"], self.stage_name, names)

    def _check_names(self, state: Iterable[str]) -> None:
        missing, unknown = self.trainable_names() - set(state), set(state) - set(self.state_dict())
        if missing or unknown:
            raise ValueError(
                f"the checkpoint does not fit stage {self.stage_name}: it lacks {len(missing)} trained weights "
                f"{sorted(missing)[:3]} and holds {len(unknown)} unknown ones {sorted(unknown)[:3]}. "
                "Was it trained with another adapter, freeze or model size?"
            )


def own_names(written_by: str, read_by: str, names: Iterable[str]) -> list[str]:
    """Those of the weights' names in a checkpoint of one stage that another which reads it has a place for."""
    other = OTHER_PARTS.get(written_by, {}).get(read_by)
    return [name for name in names if other is None or not name.startswith(other)]


def read_checkpoint(
    path: str, stage: str | tuple[str, ...], read_by: str | None = None
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Description and trained weights of a checkpoint of `stage` (or of one of several); ValueError if there is none.

    Args:
        path: the ``.ckpt`` file.
        stage: that must have written it; the first of several is the one to name.
        read_by: the stage that the weights are for, which gets its own part of them; None for all.
    """
    if not Path(path).is_file():
        first = stage if isinstance(stage, str) else stage[0]
        raise ValueError(f"{path}: there is no such checkpoint; fit stage {first} first, or correct the path")
    checkpoint = load_whole(path)
    description, weights = checked_description(checkpoint, stage, path), checkpoint["state_dict"]
    kept = weights if read_by is None else own_names(checkpoint[CHECKPOINT_KEY]["stage"], read_by, weights)
    return description, {name: weights[name] for name in kept}


def checked_description(checkpoint: dict[str, Any], stage: str | tuple[str, ...], where: str | Path) -> dict[str, Any]:
    """The description inside a checkpoint of `stage` (or of one of several); ValueError if it is of another or not ours."""
    head = checkpoint.get(CHECKPOINT_KEY)
    if head is None:
        raise ValueError(f"{where} was not written by a medrag_lightning stage")
    stages = (stage,) if isinstance(stage, str) else stage
    if head["stage"] not in stages:
        wanted = " or ".join(map(repr, stages))
        raise ValueError(
            f"{where} is of stage {head['stage']!r}, and one of stage {wanted} is needed. --ckpt_path resumes the same stage; "
            f"--model.init_args.init_from starts from weights of {wanted}; a reader that is to be tuned further stands in the "
            "backbone of the new one (models.trained_backbone.TrainedBackbone)."
        )
    description: dict[str, Any] = head["description"]
    return description
