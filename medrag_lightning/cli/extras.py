"""Which verbs need more than the base installation, and what to install for them."""

from __future__ import annotations

import importlib.util

NEEDS = {
    "base": (),
    "runtime": ("torch", "transformers", "tokenizers", "faiss"),
    "train": ("torch", "transformers", "faiss", "lightning", "peft", "jsonargparse", "torchmetrics", "sklearn", "matplotlib"),
}
"""Modules that an extra brings, and that are looked for before a verb which needs it begins."""
EXTRA_OF_VERB = {"check": "base", "verify": "base", "run": "base", "answer": "runtime"}
OTHERS = "train"
"""`run` starts other verbs, each of which says what it lacks itself."""


def require_extra(verb: str, extra: str | None = None) -> None:
    """ValueError that names the missing packages and what to install, unless what `verb` needs, or `extra`, is there."""
    extra = extra or EXTRA_OF_VERB.get(verb, OTHERS)
    missing = [name for name in NEEDS[extra] if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(
            f"{verb} needs the extra {extra!r}, which is not installed (no {', '.join(missing)}): "
            f"pip install 'medrag-lightning[{extra}]'"
        )
