"""The verb `check`: everything that is wrong with data, configuration and machine, before anything is trained."""

from __future__ import annotations

import importlib.util
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from medrag_lightning.cli import config_files
from medrag_lightning.cli.check_options import Options, Part, read_options
from medrag_lightning.cli.check_tables import BuiltTables, build_table, build_tables
from medrag_lightning.cli.findings_report import Checked, print_checked, write_findings
from medrag_lightning.cli.guessed_table import guess_table
from medrag_lightning.cli.merged_config import MergedConfig, merge
from medrag_lightning.cli.outcome import tell
from medrag_lightning.data.audit.faults import Faults, find_faults
from medrag_lightning.data.audit.findings import Finding
from medrag_lightning.data.audit.progress import telling

FOUND = 1  # exit code where there are errors
DATA_CLASS = "medrag_lightning.data.module.MedragData"
PARTS_OF_TABLES: tuple[Part, ...] = ("data", "leaks")
PARTS_OF_CONFIG: tuple[Part, ...] = ("data", "leaks", "config", "machine", "plan")


def run_check(arguments: Sequence[str]) -> None:
    """Checks what the arguments name, and prints what it found.

    Raises:
        ValueError: the arguments are not understood, or name a file that is not there.
        SystemExit: 1 where there are errors.
    """
    options = read_options(arguments)
    checked = check(options)
    if options.json is not None:
        write_findings(checked, options.json)
    print_checked(checked, options.shown, sys.stdout)
    if checked.count("error"):
        raise SystemExit(FOUND)


def check(options: Options) -> Checked:
    """Looks at every part that was asked for."""
    checked = Checked()
    if options.tables:
        _check_data(options, checked, None, options.parts or PARTS_OF_TABLES)
        return checked
    given = any(word.split("=")[0] in ("--model", "--model.class_path") for word in options.settings)
    config = merge(config_files.read_all(options.configs, given), options.settings)
    if config.get("steps") is not None:
        raise ValueError(f"check: {options.configs[-1]} is a recipe; check what its steps read: check -c data/NAME")
    parts = options.parts or PARTS_OF_CONFIG
    if "data" in parts or "leaks" in parts:
        _check_data(options, checked, config, parts)
    if "config" in parts:
        _check_settings(options, checked)
    if "machine" in parts:
        _check_machine(checked, config)
    if "plan" in parts:
        _check_plan(options, checked, config)
    return checked


def _check_data(options: Options, checked: Checked, config: MergedConfig | None, parts: Sequence[Part]) -> None:
    """Faults, and with what they have read, leaks."""
    with _timed(checked, "data"):
        if config is not None and config.get("data", "class_path") not in (DATA_CLASS, "MedragData"):
            checked.left_out["data"] = f"data is a {config.get('data', 'class_path')}, of which check knows nothing"
            return
        built = build_tables(config) if config is not None else _guessed(options.tables)
        faults = _faults(options, config, built)
    checked.counts |= faults.counts
    if "data" in parts:
        checked.findings += [*built.findings, *faults.findings]
    if "leaks" in parts:
        _check_leaks(checked, faults, asked="leaks" in options.parts)


def _faults(options: Options, config: MergedConfig | None, built: BuiltTables) -> Faults:
    get: Callable[[str], object] = lambda key: None if config is None else config.get("data", "init_args", key)  # noqa: E731
    only, limit = get("only"), get("max_pixels")
    folder = Path(str(get("cache_folder") or "runs/evidence")) if options.cache and config is not None else None
    return find_faults(
        built.tables,
        max_pixels=limit if isinstance(limit, int) and limit > 0 else 50_000_000,
        only=only if only in ("closed", "open") else None,
        workers=options.workers,
        telling=telling,
        cache_folder=folder if folder is not None and "${" not in str(folder) else None,
    )


def _guessed(paths: Sequence[Path]) -> BuiltTables:
    """Tables of bare files, each told with the parser that was guessed."""
    built = BuiltTables()
    for path in paths:
        guess = guess_table(path)
        tell(f"{path}: {guess}", sys.stderr)
        roles = [guess.role]
        built.tables.append(build_table(f"medrag_lightning.data.tables.{guess.parser}", guess.settings, str(path), roles))
    return built


def _check_leaks(checked: Checked, faults: Faults, asked: bool) -> None:
    if importlib.util.find_spec("medrag_lightning.data.audit.leaks") is None:
        if asked:
            raise ValueError("check: this installation has no leak audit (medrag_lightning.data.audit.leaks)")
        return
    from medrag_lightning.data.audit.leaks import find_leaks, pair_leaks  # type: ignore[import-not-found,import-untyped,unused-ignore]

    with _timed(checked, "leaks"):
        checked.findings += find_leaks(faults.queries, faults.corpus, faults.facts)
        checked.findings += pair_leaks(faults.queries, faults.pairs, faults.facts)


def _check_settings(options: Options, checked: Checked) -> None:
    if importlib.util.find_spec("lightning") is None:
        checked.left_out["config"] = "lightning is not installed: pip install 'medrag-lightning[train]'"
        return
    from medrag_lightning.cli.check_settings import settings_findings

    with _timed(checked, "config"):
        checked.findings += settings_findings(options.words)


def _check_machine(checked: Checked, config: MergedConfig) -> None:
    if importlib.util.find_spec("medrag_lightning.cli.machine") is None:
        checked.left_out["machine"] = "this installation has no such check"
        return
    from medrag_lightning.cli.machine import machine_findings  # type: ignore[import-not-found,import-untyped,unused-ignore]

    with _timed(checked, "machine"):
        findings, rows = machine_findings(Path(str(config.get("trainer", "default_root_dir") or "runs")))
        checked.findings += findings
        checked.tables["machine"] = rows


def _check_plan(options: Options, checked: Checked, config: MergedConfig) -> None:
    """What a run will need; not while there are errors, for it would only meet them."""
    asked = "plan" in options.parts
    if importlib.util.find_spec("medrag_lightning.cli.plan") is None or importlib.util.find_spec("lightning") is None:
        checked.left_out["plan"] = "this installation cannot train"
        return
    if not asked and not _names_a_model(options):
        checked.left_out["plan"] = "no config names a model; add one, such as -c stages/reader_raft -c readers/tiny"
        return
    if not asked and checked.count("error"):
        checked.left_out["plan"] = "there are errors; mend them first, or ask for it: --only plan"
        return
    from medrag_lightning.cli.plan import plan_findings  # type: ignore[import-not-found,import-untyped,unused-ignore]

    with _timed(checked, "plan"):
        try:
            findings, rows = plan_findings(options.words)
        except ValueError as error:
            remedy = "correct the setting; `check --only config` looks at settings alone"
            findings, rows = [Finding("plan_refused", "error", config.where("model"), str(error), remedy)], []
        checked.findings += findings
        if rows:
            checked.tables["plan"] = rows


def _names_a_model(options: Options) -> bool:
    if not options.configs or any(word.startswith("--model") for word in options.settings):
        return True
    files = [config_files.read_config(config_files.find_config(name)) for name in options.configs]
    return any(file.line_of(("model", "class_path")) for file in files)


@contextmanager
def _timed(checked: Checked, part: str) -> Iterator[None]:
    began = time.perf_counter()
    try:
        yield
    finally:
        checked.seconds[part] = time.perf_counter() - began
