"""Makes the report of a run: one HTML file that opens offline."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from medrag_lightning.artifacts import write_bytes, write_json
from medrag_lightning.handoff.report.cells import NOTHING, percent
from medrag_lightning.handoff.report.material import Material
from medrag_lightning.handoff.report.names import Names, key_of
from medrag_lightning.handoff.report.page import SPRITE, page
from medrag_lightning.handoff.report.rereading import reread_without_each
from medrag_lightning.handoff.report.run_files import Found, checkpoint_of, find_runs
from medrag_lightning.handoff.report.section import Section
from medrag_lightning.handoff.report.sections.attention import attention_section
from medrag_lightning.handoff.report.sections.calibrated import calibrated_section
from medrag_lightning.handoff.report.sections.cases import cases_section
from medrag_lightning.handoff.report.sections.comparison import comparison_section
from medrag_lightning.handoff.report.sections.confidence import confidence_section, suggested
from medrag_lightning.handoff.report.sections.corpora import citations_section, dropped_section
from medrag_lightning.handoff.report.sections.curves import curves_section
from medrag_lightning.handoff.report.sections.evidence import inconsistency_section, ledger_section
from medrag_lightning.handoff.report.sections.fusion import fusion_section
from medrag_lightning.handoff.report.sections.gallery import choose, gallery_section
from medrag_lightning.handoff.report.sections.metrics import headline_of, metrics_section
from medrag_lightning.handoff.report.sections.noise import knowledge_section, noise_section
from medrag_lightning.handoff.report.sections.reports import reports_section
from medrag_lightning.handoff.report.sections.settings import settings_section
from medrag_lightning.handoff.report.thumbnails import Thumbnails
from medrag_lightning.handoff.report.world import read_world, started_in

MAX_BYTES = 15_000_000
RESERVE_BYTES = 200_000
ABSTENTION = "abstention.json"
SECTIONS: tuple[Callable[[Material], Section | None], ...] = (
    metrics_section, reports_section, comparison_section, ledger_section, inconsistency_section, citations_section,
    dropped_section, confidence_section, calibrated_section, gallery_section, cases_section, fusion_section, attention_section,
    noise_section, knowledge_section, curves_section, settings_section,
)  # fmt: skip
"""In this order; None is a part that concerns other runs, and is not missed."""
Progress = Callable[[str, int, int], None]
Tile = tuple[str, str, str]


@dataclass(frozen=True)
class Options:
    """How a report is made.

    Args:
        output: the HTML file; by default ``report.html`` in the folder.
        queries: so many questions in the gallery.
        compare: run or recipe folders to be set beside it.
        show_ids: whether ids of questions and documents are shown beside their hashes.
        remove_each: whether the reader reads again without each document, where all stood in one prompt.
        ckpt_path: the checkpoint that reads again; by default the one that the answers came from.
        max_risk: the risk that the suggested abstention threshold may have; None for half of that of answering everything.
    """

    output: Path | None = None
    queries: int = 100
    compare: Sequence[Path] = ()
    show_ids: bool = False
    remove_each: bool = False
    ckpt_path: str | None = None
    max_risk: float | None = None

    def __post_init__(self) -> None:
        if self.queries < 1:
            raise ValueError(f"--queries must be at least 1, got {self.queries}")
        if self.max_risk is not None and not 0 <= self.max_risk < 1:
            raise ValueError(f"--max_risk must be in [0, 1), got {self.max_risk}")
        if self.ckpt_path is not None and not self.remove_each:
            raise ValueError("--ckpt_path would be ignored without --remove_each")


@dataclass(frozen=True)
class Told:
    """What was made: the file and its size, the parts that are absent with their reasons, and what its maker should know."""

    path: Path
    megabytes: float
    absent: tuple[tuple[str, str], ...]
    warnings: tuple[str, ...]


def write_report(folder: Path, options: Options = Options(), progress: Progress | None = None) -> Told:
    """Writes the report of the run or recipe in `folder`, and ``abstention.json`` into the run's own folder.

    Raises:
        ValueError: there is no run, one of its files is damaged, or the reader cannot read again.
    """
    folder = folder.resolve()
    output = (options.output or folder / "report.html").resolve()
    found = find_runs(folder)
    compared = tuple(find_runs(Path(one).resolve()).main for one in options.compare)
    with started_in(found.main):
        world = read_world(found.main)
        names = Names(key_of(found.main.folder), options.show_ids)
        material = Material(found, compared, world, names, Thumbnails(world.images), options.queries, options.max_risk)
        if options.remove_each:
            _reread(material, found, options, progress)
        sections = [made for make in SECTIONS if (made := make(material)) is not None]
        whole = page(*_head(material), sections)
        room = MAX_BYTES - RESERVE_BYTES - len(whole.encode())
        sprite = material.thumbnails.sprite(max(0, room), None if progress is None else lambda a, b: progress("images", a, b))
    data = whole.replace(SPRITE, sprite, 1).encode()
    write_bytes(output, data)
    warnings = [*_warnings(material, len(data)), *_abstention(material)]
    absent = tuple((section.title, section.reason) for section in sections if section.body is None)
    return Told(output, len(data) / 1e6, absent, tuple(warnings))


def _reread(material: Material, found: Found, options: Options, progress: Progress | None) -> None:
    mine = [p for p in material.main if len(p.cited) > 1 and not p.candidate_logp_nats]
    if not mine:
        raise ValueError(
            "--remove_each: candidates were read one by one here, so their effects are known without it; leave it out"
        )
    chosen = choose(material, mine)
    told = None if progress is None else lambda a, b: progress("reading without each document", a, b)
    checkpoint = checkpoint_of(found, options.ckpt_path)
    material.reread, material.reread_note = reread_without_each(found.main, checkpoint, chosen, told)


def _head(material: Material) -> tuple[str, str, list[Tile]]:
    results = material.run.results or {}
    title = str(results.get("title") or f"Run {material.run.name}")
    steps = f", with {len(material.found.steps)} more steps of its recipe" if material.found.steps else ""
    subtitle = f"Run {material.run.name}{steps}. System “{material.main_system}”; {len(material.main)} questions."
    tiles: list[Tile] = []
    for metric, name in (("closed_accuracy", "closed accuracy"), ("open_token_recall", "open token recall")):
        if (told := headline_of(results, material.main_system, metric)) is not None:
            value, _, interval = percent(told).partition(" ")
            alone = headline_of(results, "no retrieval", metric)
            beside = f"{interval} · without evidence {percent(alone).split(' ')[0]} %" if alone else interval
            tiles.append((name, f"{value} %", beside))
    account = material.ledger.accounts.get(material.main_system)
    if account is not None:
        tiles.append(("evidence helped / hurt", f"{account.helped} / {account.hurt}", f"{account.unchanged} unchanged"))
    rule = suggested(material)
    if rule is not None:
        line = "no threshold is good enough" if rule["rule"] is None else f"answers {100 * rule['here']['coverage']:.0f} % here"
        line += "" if rule["usable"] or rule["rule"] is None else "; read off these questions: not to be used"
        tiles.append(("suggested threshold", NOTHING if rule["threshold"] is None else f"{rule['threshold']:.2f}", line))
    return title, subtitle, tiles


def _warnings(material: Material, size_bytes: int) -> list[str]:
    thumbnails, found = material.thumbnails, []
    if material.world.problem:
        found.append(f"images and texts are not shown: {material.world.problem}")
    if thumbnails.broken:
        found.append(f"{thumbnails.broken} images cannot be opened; `check` lists them")
    if thumbnails.left_out:
        found.append(
            f"{thumbnails.left_out} images left out to keep the file below {MAX_BYTES / 1e6:g} MB; fewer --queries show all"
        )
    if size_bytes > MAX_BYTES:
        found.append(f"the file has {math.ceil(size_bytes / 1e6)} MB; fewer --queries make it smaller")
    return found


def _abstention(material: Material) -> list[str]:
    """Writes the suggested rule where it can be written; says so where it cannot."""
    rule = suggested(material)
    if rule is None:
        return []
    try:
        write_json(material.run.folder / ABSTENTION, rule)
    except OSError as error:
        return [f"{ABSTENTION} not written: {error}"]
    return []
