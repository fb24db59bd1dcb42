"""A bundle asked in a clean process: no Lightning, no trl, none of the training's packages can be imported there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from medrag_lightning.handoff.bundle.layout import NOT_AT_RUN_TIME

_BOOT = """\
import sys
sys.path.insert(0, {package!r})
for name in {blocked!r}:
    sys.modules[name] = None
from medrag_lightning.handoff.bundle.proof import answer_probes
answer_probes({bundle!r}, {corpus!r}, {device!r})
"""
_BEGIN = "medrag-proof:"


def ask_in_clean_process(bundle: Path, corpus: Path, device: str, with_peft: bool) -> list[dict[str, Any]]:
    """The answers of a bundle to its own probes, in a new process that has nothing of this one.

    Raises:
        ValueError: the process failed; the message ends with what it said last.
    """
    blocked = NOT_AT_RUN_TIME + (() if with_peft else ("peft",))
    place = None if corpus == bundle else str(corpus)
    names = {"package": str(Path(__file__).resolve().parents[3]), "blocked": blocked}
    code = _BOOT.format(bundle=str(bundle.resolve()), corpus=place and str(corpus.resolve()), device=device, **names)
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "COVERAGE"))}
    environment = {**kept, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run([sys.executable, "-I", "-c", code], env=environment, capture_output=True, text=True, check=False)
    found = [line.removeprefix(_BEGIN) for line in done.stdout.splitlines() if line.startswith(_BEGIN)]
    if done.returncode or len(found) != 1:
        last = "\n".join(done.stderr.strip().splitlines()[-3:])
        raise ValueError(f"the bundle does not load in a clean process (exit code {done.returncode}): {last}")
    answers: list[dict[str, Any]] = json.loads(found[0])
    return answers


def answer_probes(bundle: str, corpus: str | None, device: str) -> None:
    """Answers a bundle's probes and writes them to standard output as one line; run by `ask_in_clean_process`."""
    from medrag_lightning.handoff.bundle.identities import Identities
    from medrag_lightning.handoff.bundle.layout import KEY
    from medrag_lightning.handoff.bundle.load import corpus_folder, load_bundle
    from medrag_lightning.handoff.bundle.probes import answers_of, read_probes

    answerer = load_bundle(bundle, device, corpus, verify=False)
    root = corpus_folder(Path(bundle), corpus)
    queries, _ = read_probes(root)
    answers = answers_of(answerer, queries, Identities.read(root / KEY))
    sys.stdout.write(_BEGIN + json.dumps(answers) + "\n")
