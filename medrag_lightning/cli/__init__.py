"""The verbs of ``python -m medrag_lightning``. Nothing heavy is imported until a verb needs it."""

from __future__ import annotations

import difflib
import importlib
import os
import sys

from medrag_lightning import __version__
from medrag_lightning.cli.extras import require_extra
from medrag_lightning.cli.help import VERB_HELP, help_text
from medrag_lightning.cli.outcome import tell, user_errors

ENTRY = {
    "check": ("check", "run_check"),
    "index": ("index", "run_index"),
    "pairs": ("pairs", "run_pairs"),
    "explore": ("explore", "run_explore"),
    "trace": ("trace", "run_trace"),
    "reranker": ("reranker", "run_reranker"),
    "calibrate": ("calibrate", "run_calibrate"),
    "run": ("run", "run_recipe"),
    "report": ("report", "run_report"),
    "export": ("export", "run_export"),
    "verify": ("verify", "run_verify"),
    "answer": ("answer", "run_answer"),
}
"""Of verbs without a trainer: the module of this package, and the function in it that takes the arguments."""


def main(argv: list[str] | None = None) -> None:
    """Runs one verb.

    Args:
        argv: what follows the program's name; the process's own arguments by default.

    Raises:
        SystemExit: 1 where `check` finds errors, 2 for a user's mistake (told without a traceback, unless
            ``MEDRAG_DEBUG=1``), 75 after SIGTERM and 130 after Ctrl-C (both with a checkpoint to go on from).
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] in ("-h", "--help", "help"):
        tell(help_text(), sys.stdout)
        return
    if argv[0] in ("-V", "--version", "version"):
        tell(f"medrag_lightning {__version__}", sys.stdout)
        return
    verb, rest = argv[0], argv[1:]
    with user_errors(verb):
        if verb not in VERB_HELP:
            raise ValueError(_unknown(verb))
        if {"-h", "--help"} & set(rest):
            tell(VERB_HELP[verb], sys.stdout)
            return
        require_extra(verb)
        os.environ.setdefault("GOMP_SPINCOUNT", "0")  # idle OpenMP threads otherwise spin: 30x slower on a busy machine
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        _run(verb, rest)


def _run(verb: str, rest: list[str]) -> None:
    if verb in ENTRY:
        module, function = ENTRY[verb]
        getattr(importlib.import_module(f"medrag_lightning.cli.{module}"), function)(rest)
    else:
        from medrag_lightning.cli.verbs import run_trainer_verb

        run_trainer_verb(verb, rest)


def _unknown(verb: str) -> str:
    near = difflib.get_close_matches(verb, VERB_HELP, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"unknown verb {verb!r}; {hint}the verbs are: {', '.join(VERB_HELP)}"
