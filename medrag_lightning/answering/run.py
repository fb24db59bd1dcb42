"""An answerer from what a training run left on disk."""

from __future__ import annotations

import os
import re
from argparse import ArgumentError
from pathlib import Path
from typing import Any, TypeVar

import yaml
from jsonargparse import ArgumentParser

from medrag_lightning.answering.answerer import Answerer
from medrag_lightning.data.images import ImageStore
from medrag_lightning.data.module import MedragData
from medrag_lightning.mixture import Fusion
from medrag_lightning.reading.search_writer import SearchWriter
from medrag_lightning.search_files import read_searches, searches_are_there
from medrag_lightning.stages.query_generator import QueryGenerator
from medrag_lightning.stages.reader_raft import ReaderRaft
from medrag_lightning.stages.reader_trace import LAYOUT, ReaderTrace
from medrag_lightning.yaml_files import compose_yaml

AnyStage = TypeVar("AnyStage", ReaderRaft, QueryGenerator, ReaderTrace)


RunOfGenerator = tuple[str | Path, str | Path]
"""``config.yaml`` of a run of stage `query_generator`, and a checkpoint of it, or of `reader_preference` over it."""


def run_answerer(
    config: str | Path,
    checkpoint: str | Path,
    fusion: Fusion | None = None,
    generator: RunOfGenerator | None = None,
    without_generator: bool = False,
) -> Answerer:
    """The answerer of a run of stage `reader_raft` or `reader_trace`; builds the evidence store where it is missing.

    Args:
        config: the run's ``config.yaml``; ``${NAME}`` in it is filled in from the environment, ``${run_folder}`` is its folder.
        checkpoint: whose weights the reader gets, such as ``checkpoints/best-step=120.ckpt``; of that stage, or of
            `reader_preference` over the same reader.
        fusion: in place of the run's own, such as the one that `validate` tuned.
        generator: what writes the searches of each question; needed for a run with `data.searches.table`, and must be the one
            that wrote that table.
        without_generator: such a run is wanted all the same: new questions are searched with themselves, which it never tested.

    Raises:
        ValueError: a variable is not set, the config is of another stage, the checkpoint does not fit it, or the generator is
            missing or another.
    """
    return answerer_and_data(config, checkpoint, fusion, "", generator, without_generator)[0]


def run_search_writer(config: str | Path, checkpoint: str | Path) -> SearchWriter:
    """The query generator of a run, from the run's ``config.yaml`` and a checkpoint; ValueError where they do not fit."""
    stage, _ = _instantiate(Path(config), QueryGenerator)
    stage.load_weights_from(str(checkpoint))
    return stage.writer


def answerer_and_data(
    config: str | Path,
    checkpoint: str | Path,
    fusion: Fusion | None = None,
    system: str = "",
    generator: RunOfGenerator | None = None,
    without_generator: bool = False,
) -> tuple[Answerer, MedragData]:
    """The same, and the data that it was trained and is tested on.

    Args:
        config, checkpoint, fusion, generator, without_generator: as of `run_answerer`.
        system: a name of the run's `data.rivals`, whose source and steering the answerer gets; empty for the run's own.

    Raises:
        ValueError: as `run_answerer`, or there is no such system.
    """
    stage, data = _answering(Path(config))
    writer = _writer(config, data, generator, without_generator)
    if system and system not in data.rivals:
        there = ", ".join(map(repr, data.rivals)) or "none"
        raise ValueError(f"{config}: {system!r} is no system of this run; its data.rivals are: {there}")
    stage.load_weights_from(str(checkpoint))
    data.prepare_data()
    roots = {root for table in (*data.tables, *data.corpus) for root in table.roots()}
    answerer = Answerer(
        data.rivals[system] if system else data.source,
        stage.reader,
        data.documents(),
        ImageStore(sorted(roots), data.max_pixels),
        data.evidence_folder(),
        stage.template,
        generator=writer,
        rewriter=None if data.searches is None else data.searches.rewriter,
        **_settings(config, stage, fusion, system),
    )
    return answerer, data


def _settings(config: str | Path, stage: ReaderRaft | ReaderTrace, fusion: Fusion | None, system: str) -> dict[str, Any]:
    """How the reader of a run is asked, as arguments of an answerer."""
    if isinstance(stage, ReaderRaft):
        return {
            "fusion": fusion or stage.fusion,
            "evidence": stage.evidence,
            "max_new_tokens": stage.batch_reader.max_new_tokens,
            "closed_answers": stage.batch_reader.closed,
            "steering": stage.numbered_steering().get(system),
            "candidate_reranker": stage.batch_reader.weigher,
        }
    if fusion is not None:
        raise ValueError(f"{config}: fusion={fusion} would be ignored: a reader of traces reads all evidence in one prompt")
    return {"evidence": LAYOUT, "closed_answers": stage.closed_answers, "tracer": stage.writer}


def searches_of(data: MedragData) -> str | None:
    """The folder of the searches that a run's questions were searched with; None where they were searched with themselves."""
    return None if data.searches is None else data.searches.table


def _writer(
    config: str | Path, data: MedragData, generator: RunOfGenerator | None, without_generator: bool
) -> SearchWriter | None:
    table = searches_of(data)
    if generator is None:
        if table is not None and not without_generator:
            raise ValueError(
                f"{config}: this run searched with what a query generator wrote (data.searches.table {table}), and new "
                "questions need that generator: give its run with --generator RUN (Answerer.from_run(..., generator=(its "
                "config.yaml, its checkpoint))). --without_generator searches with the question itself, which was never tested"
            )
        return None
    if without_generator:
        raise ValueError("a generator and without_generator: one of them would be ignored; leave one out")
    writer = run_search_writer(*generator)
    if table is not None and searches_are_there(table):
        _refuse_other_writer(writer, table, generator)
    return writer


def _refuse_other_writer(writer: SearchWriter, table: str, generator: RunOfGenerator) -> None:
    told, mine = read_searches(table).identity, writer.identity()
    compared = set(mine) & set(told)  # a table by hand names no generator
    if str(told.get("precision", "")).endswith("16-true"):
        compared -= {"generator"}  # its weights were of another type when they were told
    if wrong := sorted(name for name in compared if mine[name] != told[name]):
        raise ValueError(
            f"{generator[0]} with {generator[1]} is not the generator that wrote {table}, with which the run was tested: "
            f"it has another {', '.join(wrong)}. Give the config and the checkpoint of the `predict` that wrote the table, or "
            "test the run with searches of this one"
        )


def _answering(path: Path) -> tuple[ReaderRaft, MedragData] | tuple[ReaderTrace, MedragData]:
    """Stage and data of a run that answers."""
    compose_yaml(path)
    told = yaml.safe_load(path.read_text(encoding="utf-8"))
    model = told.get("model") if isinstance(told, dict) else None
    if isinstance(model, dict) and str(model.get("class_path", "")).rpartition(".")[2] == ReaderTrace.__name__:
        return _instantiate(path, ReaderTrace)
    return _instantiate(path, ReaderRaft)


def _instantiate(path: Path, kind: type[AnyStage]) -> tuple[AnyStage, MedragData]:
    variables = {**os.environ, "run_folder": str(path.parent)}
    compose_yaml(path)
    text = re.sub(r"\$\{(\w+)\}", lambda match: _variable(match[1], path, variables), path.read_text(encoding="utf-8"))
    told = yaml.safe_load(text)
    if not isinstance(told, dict) or not {"model", "data"} <= set(told):
        raise ValueError(f"{path}: not the config of a run: it needs the keys model and data")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(kind, "model", required=True)
    parser.add_subclass_arguments(MedragData, "data", required=True)
    try:
        parsed = parser.parse_object({"model": told["model"], "data": told["data"]})
    except ArgumentError as error:
        raise ValueError(f"{path}: not the config of a run of stage {kind.stage_name}: {error.message}") from error
    made = parser.instantiate(parsed)
    return made.model, made.data


def _variable(name: str, path: Path, variables: dict[str, str]) -> str:
    if name not in variables:
        raise ValueError(f"{path}: the environment variable {name} is not set: export {name}=...")
    return variables[name]
