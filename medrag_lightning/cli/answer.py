"""The verb `answer`: a bundle, or a run, is asked one question, or every question of a file."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from medrag_lightning.artifacts import file_fault, fingerprint, read_json, sha256_file
from medrag_lightning.calibration import Calibration
from medrag_lightning.cli.extras import OTHERS, require_extra
from medrag_lightning.cli.generator_options import add_generator_options, check_generator_options
from medrag_lightning.cli.outcome import tell

if TYPE_CHECKING:
    from medrag_lightning.answering import Answerer

MANIFEST, CONFIG = "bundle.json", "config.yaml"
ONE = ("question", "image", "choices", "patient_id", "study_id", "modality", "history")
MANY = ("output", "images")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Raises ValueError, for the program to tell in its own way."""
        raise ValueError(f"answer: {message}; see: python -m medrag_lightning answer --help")


def run_answer(arguments: Sequence[str]) -> None:
    """Loads the bundle that the arguments name and asks it."""
    asked = _parsed(arguments)
    if asked.jsonl is None:
        answerer = _loaded(asked)
        told_about = asked.patient_id, asked.study_id, asked.modality, asked.history or ()
        answer = answerer.ask(asked.question, asked.image, asked.choices or (), *told_about)
        told = json.dumps(answer.to_json(), ensure_ascii=False, allow_nan=False) if asked.format == "json" else str(answer)
        tell(told, sys.stdout)
        return
    from medrag_lightning.cli.answer_rows import RowFiles, answer_rows

    files = RowFiles.of(asked.jsonl, asked.output, asked.images)
    answerer = _loaded(asked)
    counts = answer_rows(answerer, files, fingerprint(_digest(asked, answerer), answerer.abstain_below))
    tell(f"{files.output}: {counts}", sys.stdout)


def _parsed(arguments: Sequence[str]) -> argparse.Namespace:
    parser = _Parser(prog="medrag_lightning answer", add_help=False, allow_abbrev=False)
    parser.add_argument("bundle", type=Path)
    for name in ("question", "image", "patient_id", "study_id", "modality", "ckpt_path"):
        parser.add_argument(f"--{name}")
    parser.add_argument("--choices", type=parse_choices)
    parser.add_argument("--history", type=parse_history)
    for name in ("jsonl", "output", "images", "calibration"):
        parser.add_argument(f"--{name}", type=Path)
    parser.add_argument("--format", choices=("text", "json"), default="text")
    parser.add_argument("--abstain_below", type=parse_threshold, default="bundle")
    parser.add_argument("--device", default="cpu")
    add_generator_options(parser)
    asked = parser.parse_args(list(arguments))
    needed, ignored = (("question",), MANY) if asked.jsonl is None else (("output",), ONE)
    for name in needed:
        if getattr(asked, name) is None:
            raise ValueError(
                f"answer needs --{name}" + (", or a file of questions: --jsonl IN --output OUT" if name in ONE else "")
            )
    for name in ignored:
        if getattr(asked, name) is not None:
            beside = "without --jsonl" if asked.jsonl is None else "beside --jsonl, whose rows say that"
            raise ValueError(f"answer: --{name} would be ignored {beside}")
    _check_system(asked)
    return asked


def _check_system(asked: argparse.Namespace) -> None:
    """ValueError unless it is a bundle, or a run with what a run needs."""
    check_generator_options(asked)
    if asked.calibration is not None and asked.abstain_below not in ("bundle", None):
        raise ValueError("answer: --abstain_below would be ignored beside --calibration, which says itself when to abstain")
    if _is_run(asked.bundle):
        if asked.ckpt_path is None:
            raise ValueError(f"answer: {asked.bundle} is a run: give the weights of its reader: --ckpt_path best|last|FILE")
        return
    if not asked.bundle.is_dir():
        raise ValueError(f"answer: {asked.bundle} is not a folder; give a bundle, as the verb `export` writes it, or a run")
    given = {"ckpt_path": asked.ckpt_path, "generator": asked.generator, "without_generator": asked.without_generator}
    if asked.calibration is not None:
        raise ValueError(
            f"answer: --calibration cannot be held against {asked.bundle}: a bundle answers by the one that it was exported "
            "with (export --calibration FILE)"
        )
    if ignored := next((name for name, value in given.items() if value), None):
        raise ValueError(f"answer: --{ignored} would be ignored: {asked.bundle} is no run, and a bundle has all that it needs")


def _is_run(place: Path) -> bool:
    return (place / CONFIG).is_file() and not (place / MANIFEST).is_file()


def parse_choices(text: str) -> list[str]:
    """``yes,no`` or, for choices that hold commas, a JSON list of texts."""
    if not text.lstrip().startswith("["):
        return [choice.strip() for choice in text.split(",")]
    try:
        listed = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise argparse.ArgumentTypeError(f"{text[:80]!r} is not a JSON list: {error}") from error
    if not all(isinstance(choice, str) for choice in listed):
        raise argparse.ArgumentTypeError(f"{text[:80]!r} is not a JSON list of texts")
    return [choice.strip() for choice in listed]


def parse_history(file: str) -> tuple[tuple[str, str], ...]:
    """The earlier turns in a JSON file, a list of [question, answer]."""
    from medrag_lightning.data.dialogues import as_history

    if fault := file_fault(file):
        raise argparse.ArgumentTypeError(f"{file} {fault}; give a JSON file, a list of [question, answer]")
    try:
        return as_history("history", read_json(file))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{file}: {error}") from error


def parse_threshold(text: str) -> float | str | None:
    """A probability, ``none``, or ``bundle`` for the bundle's own."""
    if text in ("none", "bundle"):
        return None if text == "none" else text
    try:
        probability = float(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a probability, nor none, nor bundle") from error
    if not 0 <= probability <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not a probability in [0, 1]")
    return probability


def _loaded(asked: argparse.Namespace) -> Answerer:
    # torch comes with these: not before the arguments are read
    calibration = None if asked.calibration is None else Calibration.read(asked.calibration)
    if _is_run(asked.bundle):
        require_extra("answer", OTHERS)
        runs = import_module("medrag_lightning.handoff.bundle.from_run")
        generator = None if asked.generator is None else runs.generator_of(asked.generator, asked.generator_ckpt_path)
        answerer: Answerer = runs.answerer_of(asked.bundle, asked.ckpt_path, generator, asked.without_generator, asked.device)
    else:
        answerer = import_module("medrag_lightning.handoff.bundle.load").load_bundle(asked.bundle, device=asked.device)
    if asked.abstain_below != "bundle":
        answerer.abstain_below = asked.abstain_below
    if calibration is not None:
        import_module("medrag_lightning.answering.calibrated").answer_by(answerer, calibration)
    return answerer


def _digest(asked: argparse.Namespace, answerer: Answerer) -> str:
    """What the answers depend on: of a bundle its manifest, of a run its config and all weights."""
    if not _is_run(asked.bundle):
        manifest = asked.bundle / MANIFEST
        return "" if file_fault(manifest) else sha256_file(manifest)
    writer = None if answerer.generator is None else answerer.generator.identity()
    parts = (answerer.reader.fingerprint(), answerer.source.fingerprint(), writer)
    told = () if answerer.calibration is None else (dict(answerer.calibration.told),)
    return fingerprint(sha256_file(asked.bundle / CONFIG), *parts, *told)
