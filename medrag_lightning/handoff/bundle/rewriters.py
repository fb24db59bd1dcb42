"""The rewriter of a bundle: rules, as plain settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from medrag_lightning.data.rules_rewriter import RulesRewriter
from medrag_lightning.handoff.bundle.settings_schema import NAME, Schema, of_object
from medrag_lightning.interfaces import Rewriter


def check_rewriter(rewriter: Rewriter | None) -> None:
    """ValueError for a kind of rewriter that bundles do not know."""
    if rewriter is not None and not isinstance(rewriter, RulesRewriter):
        raise ValueError(
            f"a bundle cannot hold a rewriter of class {type(rewriter).__name__}; it knows RulesRewriter. Test the run with "
            "that one (data.searches.rewriter), or without, and export it again"
        )


def rewriter_spec(rewriter: Rewriter | None) -> dict[str, Any] | None:
    """The entry of a checked rewriter in ``system.json``; None without one."""
    return {"kind": "rules", "names": rewriter.names} if isinstance(rewriter, RulesRewriter) else None


def load_rewriter(spec: Mapping[str, Any] | None) -> Rewriter | None:
    """The rewriter of an entry in ``system.json``."""
    return None if spec is None else RulesRewriter(spec["names"])


def rewriter_schema() -> Schema:
    """JSON Schema of an entry."""
    names = {"anyOf": [{"type": "null"}, {"type": "array", "items": NAME, "minItems": 1}]}
    return of_object({"kind": {"const": "rules"}, "names": names})
