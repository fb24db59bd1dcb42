"""What was run: classes and numbers, never paths, which may name people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from medrag_lightning.handoff.report.markup import joined, table
from medrag_lightning.handoff.report.material import Material
from medrag_lightning.handoff.report.section import Section, note

INNER = ("backbone", "encoder", "reports", "documents", "pool", "fusion", "source", "table")
NUMBERS = (
    "per_channel",
    "top",
    "family",
    "rank",
    "only",
    "train_part",
    "max_train_queries",
    "max_eval_queries",
    "size",
    "seed",
)
PLAIN = {
    "evidence": ("model", "evidence"),
    "closed answers": ("model", "closed_answers"),
    "evidence regimes": ("data", "regimes"),
    "questions kept": ("data", "only"),
    "part of training": ("data", "train_part"),
    "batch size": ("data", "batch_size"),
    "precision": ("trainer", "precision"),
    "most epochs": ("trainer", "max_epochs"),
    "seed": ("seed_everything",),
}
CLASSES = {
    "stage": ("model",),
    "reader": ("model", "reader"),
    "search": ("data", "source"),
    "questions": ("data", "tables"),
    "evidence corpus": ("data", "corpus"),
}


def settings_section(material: Material) -> Section:
    """A short list of settings, and how much data the tables hold."""
    if not material.run.config:
        return Section.absent("settings", "Settings", "the run left no config.yaml")
    rows: list[list[object]] = [[name, told] for name, keys in CLASSES.items() if (told := _class(material.run.setting(*keys)))]
    rows += [[name, _plain(value)] for name, keys in PLAIN.items() if (value := material.run.setting(*keys)) is not None]
    if not material.world.reason:
        rows.append(["questions in the tables", len(material.world.queries)])
        rows.append(["documents in the corpus", len(material.world.documents)])
    told = table(["setting", "value"], rows, class_="words")
    return Section(
        "settings", "Settings", joined([told, note("Everything that was set: config.yaml in the run folder.")]), is_open=False
    )


def _class(told: Any) -> str:
    """A class by its last name, with what is inside it and its telling numbers."""
    if isinstance(told, list):
        return ", ".join(_class(one) for one in told)
    if not isinstance(told, Mapping) or "class_path" not in told:
        return ""
    inner: Mapping[str, Any] = told.get("init_args") or {}
    parts = [made for name in INNER if (made := _class(inner.get(name)))]
    parts += [f"{name.replace('_', ' ')} {_plain(inner[name])}" for name in NUMBERS if inner.get(name) is not None]
    name = inner.get("name")
    if isinstance(name, str):
        parts.append(name.rstrip("/").rsplit("/", 1)[-1])  # of a model; of a folder its last part alone
    return str(told["class_path"]).rsplit(".", 1)[-1] + (f" ({'; '.join(parts)})" if parts else "")


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{str(key).replace('_', ' ')} {_plain(one)}" for key, one in value.items())
    if isinstance(value, list):
        return ", ".join(map(_plain, value))
    told = str(value)
    return "(a path)" if "/" in told and not told.replace("/", "").isdigit() else told
