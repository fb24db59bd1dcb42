"""Which packages are installed, against the ranges that this project asks for (compared where `packaging` is there)."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from medrag_lightning.data.audit.findings import Finding, Severity

PROJECT = "medrag-lightning"
NEEDED = (
    "",
    "runtime",
    "train",
)  # extras whose packages must fit; "" are the base dependencies. Of others a misfit is a warning
SHOWN = ("torch", "lightning", "transformers", "peft", "trl", "faiss-cpu", "numpy", "pillow", "pyarrow", "safetensors")
IMPORT_SECONDS = 120


@dataclass(frozen=True, slots=True)
class Wanted:
    """A package that the project asks for: its name, the range (``>=2.10,<2.14``), and the extra, empty for the base."""

    name: str
    versions: str
    extra: str


def package_findings() -> tuple[list[Finding], list[tuple[str, str]]]:
    """What does not fit, and rows for a table of versions. Nothing is imported, but for a torchvision that is there."""
    wanted, where = wanted_packages()
    findings = [finding for one in wanted if (finding := _misfit(one, where))]
    findings += _torchvision()
    if not _can_compare():
        what = "the package `packaging` is not installed, so versions were not compared with the ranges of this project"
        findings.append(Finding("versions_not_compared", "note", where, what, "pip install packaging"))
    rows = [("python", sys.version.split()[0]), (PROJECT, _own_version())]
    rows += [(name, version) for name in SHOWN if (version := installed(name))]
    for extra in sorted({one.extra for one in wanted} - {""}):
        missing = [one.name for one in wanted if one.extra == extra and installed(one.name) is None]
        rows.append((f"extra {extra}", f"without {', '.join(missing)}" if missing else "installed"))
    return findings, rows


def wanted_packages() -> tuple[list[Wanted], str]:
    """The packages that the project asks for, and the file that says so: the source tree's, else the installed metadata."""
    source = Path(__file__).resolve().parents[2] / "pyproject.toml"
    if source.is_file():
        project = tomllib.loads(source.read_text(encoding="utf-8")).get("project", {})
        if project.get("name") == PROJECT:
            told = [(line, "") for line in project.get("dependencies", [])]
            extras = project.get("optional-dependencies", {})
            told += [(line, extra) for extra, lines in extras.items() for line in lines]
            return list(_read(told)), "pyproject.toml"
    try:
        lines = metadata.requires(PROJECT) or []
    except metadata.PackageNotFoundError:
        return [], "the installed package"
    marked = [(line.partition(";")[0], re.search(r"extra\s*==\s*['\"]([^'\"]+)", line)) for line in lines]
    return list(_read([(line, match[1] if match else "") for line, match in marked])), f"metadata of {PROJECT}"


def installed(name: str) -> str | None:
    """The version of an installed package; None where it is not there."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _own_version() -> str:
    from medrag_lightning import __version__

    return __version__


def _read(told: list[tuple[str, str]]) -> Iterator[Wanted]:
    for line, extra in told:
        match = re.match(r"\s*([A-Za-z0-9][\w.-]*)\s*(?:\[[^\]]*\])?\s*\(?([^;)]*)", line)
        if match and match[1].lower().replace("_", "-") != PROJECT:  # an extra may contain another
            yield Wanted(match[1], match[2].strip(), extra)


def _can_compare() -> bool:
    return installed("packaging") is not None


def fits(version: str, versions: str) -> bool:
    """Whether a version lies in a range; a local part (``+cpu``) does not count. True where nothing can be compared."""
    if not versions or not _can_compare():
        return True
    from packaging.specifiers import SpecifierSet

    return SpecifierSet(versions).contains(version.partition("+")[0], prereleases=True)


def _misfit(one: Wanted, where: str) -> Finding | None:
    there = installed(one.name)
    of = f"extra {one.extra}" if one.extra else "base"
    target = f"{PROJECT}[{one.extra}]" if one.extra else PROJECT
    if there is None:
        if one.extra:
            return None  # an extra that nobody asked for; the table says what it lacks
        what = f"{one.name} is not installed ({of} of {PROJECT})"
        return Finding("package_missing", "error", where, what, f"pip install '{target}'")
    if fits(there, one.versions):
        return None
    severity: Severity = "error" if one.extra in NEEDED else "warning"
    what = f"{one.name} {there} is outside {one.versions}, which the {of} asks for"
    return Finding("package_version", severity, where, what, f"pip install --upgrade '{target}', or '{one.name}{one.versions}'")


def _torchvision() -> list[Finding]:
    """A torchvision made for another torch breaks the import of transformers, peft and lightning."""
    version, torch = installed("torchvision"), installed("torch")
    if version is None or torch is None:
        return []
    remedy = "uninstall torchvision (nothing here needs it), or install the build that belongs to this torch"
    pins = [one for one in _read([(line, "") for line in metadata.requires("torchvision") or []]) if one.name == "torch"]
    if pins and not fits(torch, pins[0].versions):
        what = f"torchvision {version} is made for torch {pins[0].versions.lstrip('=')}, here is {torch}"
        return [Finding("torchvision_mismatch", "error", "torchvision", what, remedy)]
    asked = [sys.executable, "-c", "import torch, torchvision; torchvision.ops.nms"]
    try:
        done = subprocess.run(asked, capture_output=True, text=True, timeout=IMPORT_SECONDS)
    except subprocess.TimeoutExpired:
        what = f"torchvision {version} was not imported within {IMPORT_SECONDS} s"
        return [Finding("torchvision_mismatch", "warning", "torchvision", what, remedy)]
    if done.returncode == 0:
        return []
    last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
    what = f"torchvision {version} cannot be imported beside torch {torch}: {last}"
    return [Finding("torchvision_mismatch", "error", "torchvision", what, remedy)]
