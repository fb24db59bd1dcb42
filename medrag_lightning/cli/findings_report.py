"""Findings as a person reads them, and as a program does."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console
from rich.text import Text

from medrag_lightning import __version__
from medrag_lightning.artifacts import write_json
from medrag_lightning.data.audit.findings import Finding, Severity

SCHEMA = 1
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
STYLES = {"error": "bold red", "warning": "yellow", "note": "cyan"}
SHOWN_REMEDIES = 2


@dataclass(slots=True)
class Checked:
    """What a check found.

    Attributes:
        findings: of all parts.
        tables: rows for people under a heading, such as the machine's.
        counts: of what was looked at.
        seconds: that each part took.
        left_out: parts that were not looked at, and why.
    """

    findings: list[Finding] = field(default_factory=list)
    tables: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)

    def count(self, severity: Severity) -> int:
        """How many findings are so severe."""
        return sum(one.severity == severity for one in self.findings)


def print_checked(checked: Checked, shown: int, stream: TextIO) -> None:
    """Prints findings by kind, worst first, `shown` places a kind (0: all), each kind's remedy once, and a closing line."""
    console = Console(file=stream, highlight=False, soft_wrap=True)
    for heading, rows in checked.tables.items():
        console.print(Text(heading, style="bold"))
        width = max((len(name) for name, _ in rows), default=0)
        for name, value in rows:
            console.print(Text(f"  {name:<{width}}  {value}"))
        console.print()
    for severity in SEVERITIES:
        groups: dict[str, list[Finding]] = defaultdict(list)
        for one in checked.findings:
            if one.severity == severity:
                groups[one.kind].append(one)
        for kind, found in sorted(groups.items(), key=lambda item: -len(item[1])):
            _print_kind(console, severity, kind, found, shown)
    for part, why in checked.left_out.items():
        console.print(Text(f"not looked at: {part}, because {why}"))
    console.print(Text(closing_line(checked), style=STYLES["error"] if checked.count("error") else "bold green"))


def closing_line(checked: Checked) -> str:
    """``3 errors, 1 warning, 2 notes in 575 questions, 480 documents, 700 images; 2.3 s``."""
    parts = [_counted(checked.count(severity), severity) for severity in SEVERITIES]
    looked = ", ".join(f"{count:,} {name}" for name, count in checked.counts.items())
    return ", ".join(parts) + (f" in {looked}" if looked else "") + f"; {sum(checked.seconds.values()):.1f} s"


def write_findings(checked: Checked, path: Path) -> None:
    """Writes everything as JSON, atomically."""
    told: Mapping[str, Any] = {
        "schema": SCHEMA,
        "version": __version__,
        **{f"{severity}s": checked.count(severity) for severity in SEVERITIES},
        "counts": checked.counts,
        "seconds": {part: round(took, 3) for part, took in checked.seconds.items()},
        "left_out": checked.left_out,
        "tables": {heading: dict(rows) for heading, rows in checked.tables.items()},
        "findings": [{name: asdict(one)[name] for name in Finding.__dataclass_fields__} for one in checked.findings],
    }
    write_json(path, told)


def _print_kind(console: Console, severity: Severity, kind: str, found: Sequence[Finding], shown: int) -> None:
    sentences = {one.what for one in found}
    head = Text.assemble((severity, STYLES[severity]), f" {kind}", f" ({len(found)})" if len(found) > 1 else "")
    if len(sentences) == 1:
        head.append(f": {found[0].what}")
    console.print(head)
    listed = found if shown == 0 else found[:shown]
    for one in listed:
        console.print(Text(f"  {one.where}" + ("" if len(sentences) == 1 else f"  {one.what}")))
    if len(found) > len(listed):
        console.print(Text(f"  ... and {len(found) - len(listed)} more (--max_findings 0 shows all)"))
    remedies = list(dict.fromkeys(one.remedy for one in found if one.remedy))
    for remedy in remedies[:SHOWN_REMEDIES]:
        console.print(Text(f"  -> {remedy}", style="dim"))
    console.print()


def _counted(count: int, name: str) -> str:
    return f"{count:,} {name}" + ("" if count == 1 else "s")
