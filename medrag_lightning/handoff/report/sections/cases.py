"""The worst cases: wrong, and sure of it."""

from __future__ import annotations

import contextlib

from medrag_lightning.handoff.report.markup import folded, joined, tag
from medrag_lightning.handoff.report.material import Material
from medrag_lightning.handoff.report.removal import Removal
from medrag_lightning.handoff.report.section import TEST, Section, note
from medrag_lightning.handoff.report.sections.gallery import answer_line, candidate_cards, query_image
from medrag_lightning.metrics import item_correct
from medrag_lightning.records import Prediction

SHOWN = 20
NAME, TITLE = "worst", "Worst cases"


def cases_section(material: Material) -> Section:
    """Closed questions that were answered wrongly with the highest probability, surest first, with their evidence."""
    if not material.main:
        return Section.absent(NAME, TITLE, "the run has no predictions", TEST)
    wrong = [p for p in material.main if p.logp_nats and item_correct(p) is False]
    if not wrong:
        scored = any(p.logp_nats for p in material.main)
        reason = "no scored closed question was answered wrongly" if scored else "no answer carries a probability"
        return Section.absent(NAME, TITLE, reason)
    wrong.sort(key=lambda p: (-max(p.logp_nats), p.query_id))
    shown = [_case(material, p, number < 3) for number, p in enumerate(wrong[:SHOWN])]
    told = f"The {len(shown)} surest of {len(wrong)} wrong answers to closed questions."
    return Section(NAME, TITLE, joined([note(told), *shown]))


def _case(material: Material, prediction: Prediction, is_open: bool) -> object:
    removals: tuple[Removal, ...] = ()
    with contextlib.suppress(ValueError):  # the gallery says why
        removals = material.removals(prediction)
    row = tag("div", query_image(material, prediction), candidate_cards(material, prediction, removals), class_="found")
    return folded(answer_line(material, prediction), row, is_open=is_open, class_="question")
