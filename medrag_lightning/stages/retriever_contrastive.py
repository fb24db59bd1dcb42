"""Stage `retriever_contrastive`: images and their texts into one space (CLIP: arXiv 2103.00020; SigLIP: arXiv 2303.15343)."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn

from medrag_lightning.batches import Pair, PairBatch
from medrag_lightning.interfaces import DualEncoder, Feed
from medrag_lightning.losses import ContrastiveKind, contrastive_loss, in_chunks
from medrag_lightning.metrics import PairRanks, ranking_summary
from medrag_lightning.stages.base import Schedule, Stage
from medrag_lightning.stages.pair_vectors import PairCollator, PairVectors

TRAINED, UNTRAINED, CHANCE = "trained", "untrained", "_chance"


class RetrieverContrastive(Stage):
    """Trains a dual encoder on the image-text pairs of the corpus; which are held out, the data module's `pairs` says.

    Pairs with the same image or the same text are positives of each other, and with the data module's `pairs.factual` those
    that state nearly the same. With `chunk_size` a batch may be of any size: the
    towers see that many pairs at a time (GradCache), for one more forward pass.

    Args:
        encoder: the two towers; its own settings say which weights train.
        optimizer: made over the trainable parameters only.
        schedule: the learning rate over the run.
        loss: softmax over the batch both ways, or a sigmoid for each pair of the batch.
        init_temperature: divides cosines at the start; it is learned.
        min_temperature: it never gets lower.
        init_bias: added to the logits of `siglip` at the start; it is learned.
        chunk_size: pairs that a process has activations of at a time; null for the whole batch.
        seed: of dropout.
        init_from: checkpoint of an earlier run of this stage to start from; weights only.
    """

    stage_name: ClassVar[str] = "retriever_contrastive"
    loss_unit: ClassVar[str] = "contrastive loss (nats)"  # on plots

    def __init__(
        self,
        encoder: DualEncoder,
        optimizer: OptimizerCallable,
        schedule: Schedule = Schedule(),  # noqa: B008  (frozen)
        loss: ContrastiveKind = "clip",
        init_temperature: float = 0.07,
        min_temperature: float = 0.01,
        init_bias: float = -10.0,
        chunk_size: int | None = None,
        seed: int = 0,
        init_from: str | None = None,
    ) -> None:
        super().__init__(optimizer, schedule, seed)
        if not 0 < min_temperature <= init_temperature:
            got = f"{init_temperature} and {min_temperature}"
            raise ValueError(f"temperatures must be positive and init_temperature at least min_temperature, got {got}")
        if chunk_size is not None and chunk_size < 1:
            raise ValueError(f"chunk_size must be at least 1, got {chunk_size}; null for the whole batch at once")
        if not isinstance(encoder, nn.Module):
            raise ValueError(f"{type(encoder).__name__} is no torch module, so nothing of it can be trained")
        self.encoder: Any = encoder
        self.loss, self.chunk_size, self.init_from = loss, chunk_size, init_from
        self.max_log_scale = -math.log(min_temperature)
        self.log_scale = nn.Parameter(torch.tensor(-math.log(init_temperature)))
        self.bias = nn.Parameter(torch.tensor(init_bias)) if loss == "siglip" else None
        self.rankings: dict[str, PairRanks] = {}
        self.factual_rankings: dict[str, PairRanks] = {}
        self._vectors: dict[str, list[PairVectors]] = {}
        self._others: dict[str, Any] = {}  # no submodules: they are not part of what is saved
        self._prepared = self._told_chance = False

    @property
    def feed(self) -> Feed:
        """Image-text pairs."""
        return "pairs"

    def collator(self, training: bool) -> Callable[[Sequence[Pair]], PairBatch]:
        """Pairs to the encoder's inputs."""
        return PairCollator(self.encoder)

    def configure_model(self) -> None:
        """Builds or loads the encoder, once, and starts from `init_from`."""
        if self._prepared:
            return
        self.encoder.prepare(self.trainer.datamodule.training_texts())  # type: ignore[attr-defined]
        self._check_encoder()
        self._prepared = True
        if self.init_from:
            self.load_weights_from(self.init_from)

    def training_step(self, batch: PairBatch, batch_idx: int) -> Tensor:
        """The contrastive loss over the pairs of all processes, in nats."""
        image_BD = self._through(self.encoder.image_vectors, batch.image)
        text_BD = self._through(self.encoder.text_vectors, batch.text)
        settings = (self.log_scale, self.bias, self.chunk_size, self.trainer.world_size)
        keys, least = batch.key_B2, batch.fact_f1 if batch.facts_train else None
        keys = keys if least is None else torch.cat([keys, batch.fact_BF], dim=1)
        loss = contrastive_loss(self.loss, image_BD, text_BD, keys, *settings, fact_f1=least)
        self.log("train/loss", loss.detach(), prog_bar=True, batch_size=len(batch), sync_dist=self.trainer.world_size > 1)
        self.log("train/temperature", (-self.log_scale.detach()).exp(), batch_size=len(batch))
        return loss

    def on_train_batch_end(self, outputs: Any, batch: PairBatch, batch_idx: int) -> None:
        """Keeps the temperature at or above its floor (CLIP, Section 2.5)."""
        with torch.no_grad():
            self.log_scale.clamp_(max=self.max_log_scale)

    def on_validation_epoch_start(self) -> None:
        """Forgets the vectors of the pass before."""
        self._vectors = {TRAINED: []}

    def validation_step(self, batch: PairBatch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Embeds a batch."""
        self._embed(batch)

    def on_validation_epoch_end(self) -> None:
        """Loss and ranks over all validation pairs at once, beside chance; they do not depend on batches or processes."""
        self._finish("val")

    def on_test_epoch_start(self) -> None:
        """Makes the encoder as it was before training, to stand beside."""
        untrained = copy.deepcopy(self.encoder)
        untrained.restore(self.encoder.settings())
        self._others = {UNTRAINED: untrained.to(self.device).eval()}
        self._vectors = {TRAINED: [], UNTRAINED: []}

    def test_step(self, batch: PairBatch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Embeds a batch, with and without training."""
        self._embed(batch)

    def on_test_epoch_end(self) -> None:
        """As validation; `rankings` and `factual_rankings` keep the ranks of both encoders for the report."""
        self._finish("test")
        self._others = {}

    def predict_step(self, batch: Any, batch_idx: int) -> None:
        """Nothing is predicted."""
        raise ValueError("a stage that trains a retriever predicts nothing; embed a corpus with the stage embed")

    def describe(self) -> dict[str, Any]:
        """The encoder and the loss."""
        return {"encoder": self.encoder.settings(), "loss": self.loss}

    def accept(self, description: dict[str, Any]) -> None:
        """Restores the encoder; refuses another loss."""
        if description["loss"] != self.loss:
            raise ValueError(
                f"the retriever was trained with loss {description['loss']!r}, this run uses {self.loss!r}. "
                f"Set --model.init_args.loss {description['loss']}."
            )
        self.encoder.restore(description["encoder"])
        self._prepared = True

    def _check_encoder(self) -> None:
        if not any(parameter.requires_grad for parameter in self.encoder.parameters()):
            name = type(self.encoder).__name__
            raise ValueError(f"no weight of {name} trains; set its freeze (nothing, text, ...) or its lora")
        norms = [type(part).__name__ for part in self.encoder.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]
        if self.chunk_size is not None and norms:
            raise ValueError(f"chunk_size={self.chunk_size} would change the statistics of {norms[0]}; set it to null")

    def _through(self, tower: Callable[[Mapping[str, Tensor]], Tensor], inputs: Mapping[str, Tensor]) -> Tensor:
        if self.chunk_size is None:
            return tower(inputs)
        parameters = [parameter for parameter in self.encoder.parameters() if parameter.requires_grad]
        return in_chunks(tower, inputs, self.chunk_size, parameters)

    def _embed(self, batch: PairBatch) -> None:
        for name, encoder in {TRAINED: self.encoder, **self._others}.items():
            self._vectors[name].append(PairVectors.of(batch, encoder))

    def _finish(self, phase: str) -> None:
        """Gathers the vectors of all processes, ranks them, and logs the trained encoder's numbers."""
        found = {name: PairVectors.gathered(parts, self.trainer.world_size) for name, parts in self._vectors.items()}
        self._vectors = {}
        self.rankings = {name: vectors.ranks() for name, vectors in found.items()}
        factual = {name: vectors.factual_ranks() for name, vectors in found.items()}
        self.factual_rankings = {name: ranks for name, ranks in factual.items() if ranks is not None}
        numbers = ranking_summary(self.rankings[TRAINED])
        if TRAINED in self.factual_rankings:
            numbers |= {f"factual_{name}": value for name, value in ranking_summary(self.factual_rankings[TRAINED]).items()}
        chance = {name: value for name, value in numbers.items() if name.endswith(CHANCE)}
        if phase == "val" and not self._told_chance:
            told = ", ".join(f"{name.removesuffix(CHANCE)} {value:.3f}" for name, value in chance.items())
            rank_zero_info(f"{len(self.rankings[TRAINED])} validation pairs; a random order gives {told}")
            self._told_chance = True
        for name, value in {"loss": self._loss_of(found[TRAINED]), **numbers}.items():
            shown = phase == "val" and name in ("loss", "image_to_text_mrr", "text_to_image_mrr")
            if name not in chance:
                self.log(f"{phase}/{name}", value, prog_bar=shown, sync_dist=True)

    def _loss_of(self, vectors: PairVectors) -> float:
        parts = [torch.from_numpy(part) for part in (vectors.image_ND, vectors.text_ND, vectors.key_N2)]
        log_scale, bias = (None if value is None else value.detach().cpu() for value in (self.log_scale, self.bias))
        assert log_scale is not None
        return float(contrastive_loss(self.loss, parts[0], parts[1], parts[2], log_scale, bias, block_rows=512))
