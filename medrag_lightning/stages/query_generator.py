"""Stage `query_generator`: a reader learns to write what to ask each corpus for a question about an image (HeteroRAG, MQG).

Supervised fine-tuning on searches that an expert wrote and a judge found good. Preference tuning then is stage
`reader_preference` with pairs of such texts, and this stage tests what came out, and writes the searches of every question.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
import torch.distributed
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor

from medrag_lightning.batches import Example, ReaderBatch
from medrag_lightning.interfaces import Feed, Reader
from medrag_lightning.metrics import SearchOutcome, search_numbers
from medrag_lightning.prompts import PromptTemplate
from medrag_lightning.reading.search_collator import SearchCollator
from medrag_lightning.reading.search_writer import SearchWriter
from medrag_lightning.records import Query, WrittenSearches, format_searches
from medrag_lightning.search_files import SearchRow
from medrag_lightning.stages.answer_objective import global_answer_nll, mean_over_processes
from medrag_lightning.stages.base import Schedule, Stage
from medrag_lightning.stages.search_trial import FindingItems, outcomes_of
from medrag_lightning.stages.totals import Totals

LAYOUT = "all_in_one_prompt"  # what stage reader_preference says of its readers: there is no evidence to lay out


class QueryGenerator(Stage):
    """Supervised fine-tuning of a query generator; the loss covers the text of the searches alone.

    Args:
        reader: the vision-language model.
        optimizer: made over the trainable parameters only.
        corpora: names of the corpora to write searches for, in the order of the tags: those of the source's parts.
        template: how a prompt is built. `instruction` tells an instruction-tuned reader what the corpora hold and what to do.
        schedule: the learning rate over the run.
        max_new_tokens: longest text; one that is cut off lacks its last tags.
        hits_at: a gold document counts as found among the first so many of its corpus.
        seed: of dropout.
        init_from: checkpoint of an earlier run of this stage, or of `reader_preference`, to start from; weights only.

    Logs ``loss`` (nats a token), and of the texts that it writes in validation and test what `metrics.search_numbers` tells.
    """

    stage_name: ClassVar[str] = "query_generator"
    reads: ClassVar[tuple[str, ...]] = ("reader_preference",)

    def __init__(
        self,
        reader: Reader,
        optimizer: OptimizerCallable,
        corpora: list[str],
        template: PromptTemplate = PromptTemplate(),  # noqa: B008  (frozen)
        schedule: Schedule = Schedule(),  # noqa: B008  (frozen)
        max_new_tokens: int = 128,
        hits_at: int = 2,
        seed: int = 0,
        init_from: str | None = None,
    ) -> None:
        super().__init__(optimizer, schedule, seed)
        if hits_at < 1:
            raise ValueError(f"hits_at must be at least 1, got {hits_at}")
        self.reader, self.template, self.hits_at, self.init_from = reader, template, hits_at, init_from
        self.writer = SearchWriter(reader, template, corpora, max_new_tokens)
        self.corpora = self.writer.corpora
        self.search_outcomes: list[SearchOutcome] = []
        self._written: list[tuple[Query, WrittenSearches, float]] = []
        self._totals = Totals()
        self._prepared = False

    @property
    def feed(self) -> Feed:
        """Questions without evidence."""
        return "searches"

    def collator(self, training: bool) -> Callable[[Sequence[Example]], ReaderBatch]:
        """Questions to prompts, with the text of the searches to learn where there are some."""
        return SearchCollator(self.reader.processor, self.template, self.corpora, training)

    def configure_model(self) -> None:
        """Builds or loads the reader, once, and starts from `init_from`."""
        if self._prepared:
            return
        texts = self.trainer.datamodule.training_texts()  # type: ignore[attr-defined]
        self.reader.prepare([*texts, *[format_searches({}, self.corpora)] * len(texts)])  # a tag is as frequent as a text
        self._prepared = True
        if self.init_from:
            self.load_weights_from(self.init_from)
        self.shard_reader(self.reader)

    def training_step(self, batch: ReaderBatch, batch_idx: int) -> Tensor:
        """Mean NLL over the tokens of the searches in the global batch, in nats."""
        loss = global_answer_nll(self.reader, batch, self.trainer.world_size, self.device)
        whole = mean_over_processes(loss.detach(), self.trainer.world_size)
        self.log("train/loss", whole, prog_bar=True, batch_size=len(batch))
        return loss

    def validation_step(self, batch: ReaderBatch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """The NLL of the targets (first loader), and whole texts (second loader)."""
        if dataloader_idx:
            self._write(batch)
            return
        for part in batch.parts:
            if part.rows is not None:
                nll_R = -self.reader.token_logp(part.prompts, part.rows).double().sum(1)
                self._totals.add({"nll": nll_R, "tokens": part.rows.mask_RL.sum(1).double()})

    def test_step(self, batch: ReaderBatch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Whole texts."""
        self._write(batch)

    def predict_step(self, batch: ReaderBatch, batch_idx: int, dataloader_idx: int = 0) -> list[SearchRow]:
        """One row for each question of the batch, in order."""
        written = self.writer.read(batch)
        told = zip(batch.examples, written, strict=True)
        return [SearchRow(one.query.id, one.query.split, said.first(), faults=said.faults) for one, said in told]

    def on_validation_epoch_start(self) -> None:
        """Forgets the texts of the pass before."""
        self._written = []

    def on_test_epoch_start(self) -> None:
        """Forgets the texts of the pass before."""
        self._written = []

    def on_validation_epoch_end(self) -> None:
        """Logs the loss, and what the texts came to."""
        means = self._totals.means(self.trainer.world_size)
        if means:
            self.log("val/loss", means["nll"] / means["tokens"], prog_bar=True)
        loaders: Any = self.trainer.val_dataloaders
        self._finish("val", loaders[1].dataset, beside_raw=False)

    def on_test_epoch_end(self) -> None:
        """Logs what the texts came to, beside the question itself; `search_outcomes` holds every question."""
        loaders: Any = self.trainer.test_dataloaders
        self._finish("test", loaders[0].dataset, beside_raw=True)

    def identity(self) -> dict[str, Any]:
        """What written searches depend on, by name."""
        return self.writer.identity()

    def describe(self) -> dict[str, Any]:
        """The reader, its prompt and its corpora."""
        return {
            "reader": self.reader.describe(),
            "prompt_order": self.template.order,
            "template": self.template.fingerprint(),
            "evidence": LAYOUT,
            "corpora": list(self.corpora),
        }

    def accept(self, description: dict[str, Any]) -> None:
        """Restores the reader; refuses another prompt or other corpora."""
        if description["template"] != self.template.fingerprint():
            raise ValueError(
                "the checkpoint's query generator was trained with another prompt template than this run's: give its template "
                "(model.init_args.template of its config.yaml). A reader that answers questions is no query generator"
            )
        told = description.get("corpora", list(self.corpora))  # preference tuning does not know them
        if told != list(self.corpora):
            raise ValueError(
                f"the query generator was trained to search {', '.join(told)}, this run names {', '.join(self.corpora)}: "
                f"set --model.init_args.corpora '{told}'"
            )
        self.reader.restore(description["reader"])
        self._prepared = True

    def _write(self, batch: ReaderBatch) -> None:
        began = time.perf_counter()
        written = self.writer.read(batch)
        seconds = (time.perf_counter() - began) / max(1, len(batch))
        told = zip(batch.examples, written, strict=True)
        self._written += [(example.query, said, seconds) for example, said in told]

    def _finish(self, phase: str, items: FindingItems, beside_raw: bool) -> None:
        mine = outcomes_of(self._written, items, self.corpora, self.hits_at, beside_raw)
        gathered: list[list[SearchOutcome]] = [mine]
        if self.trainer.world_size > 1:
            gathered = [[] for _ in range(self.trainer.world_size)]
            torch.distributed.all_gather_object(gathered, mine)
        self._written = []
        self.search_outcomes = sorted((one for part in gathered for one in part), key=lambda one: one.query_id)
        for name, value in search_numbers(self.search_outcomes, self.hits_at).items():
            self.log(f"{phase}/{name}", value, prog_bar=name.startswith("hit"), sync_dist=True)
