"""What an export is made of, from a run's folder: the training-side answerer, its questions, its checkpoint, its fusion."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch
import yaml

from medrag_lightning.answering import Answerer
from medrag_lightning.answering.run import RunOfGenerator, answerer_and_data, searches_of
from medrag_lightning.artifacts import fingerprint, read_json
from medrag_lightning.handoff.bundle.request import Run
from medrag_lightning.mixture import Fusion
from medrag_lightning.records import Split


def read_run(
    run: str | Path,
    checkpoint: str,
    fusion: str | Path | None = None,
    system: str = "",
    generator: RunOfGenerator | None = None,
    without_generator: bool = False,
) -> Run:
    """The run of a ``config.yaml``, or of a folder that holds one; builds the evidence store where it is missing.

    Args:
        run: the folder or the file.
        checkpoint: a file, or ``best`` or ``last``: of the run's own ``checkpoints/``.
        fusion: the ``fusion.yaml`` that `validate` wrote; None for the run's own settings.
        system: a name of the run's `data.rivals`; empty for its own source.
        generator: config and checkpoint of what wrote the searches that the run was tested with; see `generator_of`.
        without_generator: such a run is exported without it.

    Raises:
        ValueError: what is missing, and how to get it.
    """
    config = config_of(Path(run))
    chosen = checkpoint_of(config.parent, checkpoint)
    tuned = None if fusion is None else read_fusion(Path(fusion))
    answerer, data = answerer_and_data(config, chosen, tuned, system, generator, without_generator)
    lacks_generator = _lacks_generator(config, searches_of(data) is not None, generator, without_generator)
    told = yaml.safe_load(config.read_text(encoding="utf-8"))
    questions = {str(split): data.split_queries(split) for split in Split}
    if not questions["test"]:
        raise ValueError(f"{config}: its data have no test questions, and an export is proved by some; give a table that has")
    return Run(
        answerer,
        [replace(query, searches=None, rewritten=None) for query in questions["test"]],
        {name: len(part) for name, part in questions.items()},
        told.get("seed_everything"),
        [config.parent, chosen.resolve().parent.parent],
        fingerprint([[query.id, query.question, query.answer] for part in questions.values() for query in part]),
        system,
        lacks_generator,
    )


def answerer_of(
    run: str | Path, checkpoint: str, generator: RunOfGenerator | None, without_generator: bool, device: str
) -> Answerer:
    """The answerer of a run itself, on a device; arguments as of `read_run`."""
    config = config_of(Path(run))
    weights = checkpoint_of(config.parent, checkpoint)
    answerer, _ = answerer_and_data(config, weights, generator=generator, without_generator=without_generator)
    readers: list[Any] = [answerer.reader, *([] if answerer.generator is None else [answerer.generator.reader])]
    for reader in readers:
        reader.to(device)
    return answerer


def generator_of(run: str | Path, checkpoint: str | None) -> RunOfGenerator:
    """Config and checkpoint of a query generator, from the folder of its run, or its ``config.yaml``.

    Args:
        run: of stage query_generator: the fit, or the `predict` that wrote the table.
        checkpoint: as of `checkpoint_of`; None for the best of the fit.
    """
    config = config_of(Path(run))
    try:
        return config, checkpoint_of(config.parent, checkpoint or "best")
    except ValueError as error:
        told = str(error).replace("--ckpt_path", "--generator_ckpt_path")
        raise ValueError(f"--generator {run}: {told}") from error


def config_of(run: Path) -> Path:
    """The ``config.yaml`` that a run's place means; ValueError where there is none."""
    config = run / "config.yaml" if run.is_dir() else run
    if not config.is_file():
        raise ValueError(f"{config}: there is no such config; give the folder of a run (fit or test) or its config.yaml")
    return config


def checkpoint_of(folder: Path, named: str) -> Path:
    """The checkpoint that is meant by a file, ``best`` or ``last``; ValueError where it is not there."""
    if named not in ("best", "last"):
        if not Path(named).is_file():
            raise ValueError(f"--ckpt_path: {named} does not exist; give a file, `last` or `best`")
        return Path(named)
    last = folder / "checkpoints" / "last.ckpt"
    if not last.is_file():
        raise ValueError(
            f"--ckpt_path {named}: {folder} has no checkpoints/last.ckpt; name the file of the tested weights{_hint(folder)}"
        )
    if named == "last":
        return last
    states = torch.load(last, map_location="cpu", weights_only=True, mmap=True).get("callbacks", {}).values()
    best = next((state["best_model_path"] for state in states if state.get("best_model_path")), None)
    path = None if best is None else folder / "checkpoints" / Path(best).name  # the run may have been moved
    if path is None or not path.is_file():
        raise ValueError(f"--ckpt_path best: {last} names no best checkpoint that is there; use --ckpt_path last")
    return path


def read_fusion(path: Path) -> Fusion:
    """The fusion of a ``fusion.yaml`` of `validate`; ValueError where the file is of another kind."""
    if not path.is_file():
        raise ValueError(f"--fusion: {path} does not exist; `validate` writes fusion.yaml to its run folder")
    told: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    try:
        settings = told["model"]["init_args"]["fusion"]
        if unknown := sorted(set(settings) - {field.name for field in fields(Fusion)}):
            raise ValueError(f"--fusion: {path} has {unknown[0]!r}, which is no setting of fusion")
        return Fusion(**settings)
    except (TypeError, KeyError) as error:
        raise ValueError(f"--fusion: {path} holds no model.init_args.fusion, as fusion.yaml of `validate` does") from error


def suggested_threshold(run: Path) -> float:
    """The abstention threshold that `report` suggested for the run; ValueError where there is none that may be used."""
    path = config_of(run).parent / "abstention.json"
    if not path.is_file():
        raise ValueError(f"--abstain report: {path} does not exist; `report` writes it, or give a probability")
    told = read_json(path)
    if told.get("threshold") is None or told.get("usable") is False:
        raise ValueError(
            f"--abstain report: {path} has no threshold that may be used: it must be chosen on validation questions; give a "
            "probability, or report on a run that was validated"
        )
    return float(told["threshold"])


def _lacks_generator(config: Path, searched: bool, generator: RunOfGenerator | None, without_generator: bool) -> bool:
    if searched or (generator is None and not without_generator):
        return searched and generator is None
    option = "--without_generator" if generator is None else "--generator"
    remedy = "" if generator is None else ", or test the run with the table that this generator wrote"
    raise ValueError(
        f"{option}: the questions of {config} were searched with themselves (no data.searches.table), and a bundle answers as "
        f"its run was tested; leave it out{remedy}"
    )


def _hint(folder: Path) -> str:
    """Where a step of a recipe notes which weights it tested."""
    return f" ({folder / 'log.txt'} says which)" if (folder / "log.txt").is_file() else ""
