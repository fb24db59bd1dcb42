"""What is to be exported, and how."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from medrag_lightning.answering import Answerer
from medrag_lightning.handoff.bundle.reader_files import How
from medrag_lightning.records import Query


@dataclass(frozen=True, slots=True)
class Settings:
    """What is exported, and how.

    Attributes:
        output: the folder that becomes the bundle.
        reader: ``merged``, ``adapter`` or ``both``.
        corpus: ``include`` the evidence, or leave it in a folder of its own and ``pointer`` to it.
        dtype: of the merged reader; None for what the run computed in (float16: float32).
        probes: questions that are asked of both.
        onnx: also towers and heads as ONNX.
        abstain_below: probability below which an answer is withheld; None for never.
        overwrite: replaces a folder that is there.
        device: where probes are answered.
    """

    output: Path
    reader: How = "merged"
    corpus: Literal["include", "pointer"] = "include"
    dtype: Literal["float32", "bfloat16"] | None = None
    probes: int = 8
    onnx: bool = False
    abstain_below: float | None = None
    overwrite: bool = False
    device: str = "cpu"


@dataclass(frozen=True, slots=True)
class Run:
    """What a bundle is made of: an answerer of the training side, and what is known of its run.

    Attributes:
        answerer: answers as the verb `test`.
        queries: from which probes are drawn: the test questions.
        counts: questions by split.
        seed: of the run.
        result_folders: where ``results.json`` may lie.
        queries_fingerprint: of all questions.
        system: which of the run's systems this is, as its results name it; empty for ``retrieved``.
        lacks_generator: whether the run was tested with the searches of a query generator, and this answerer has none.
    """

    answerer: Answerer
    queries: Sequence[Query]
    counts: dict[str, int]
    seed: int | None
    result_folders: Sequence[Path]
    queries_fingerprint: str
    system: str = ""
    lacks_generator: bool = False


def check_settings(settings: Settings, has_evidence: bool) -> None:
    """ValueError where a setting makes no sense, or would be ignored; `has_evidence`: whether the run searches a corpus."""
    if settings.probes < 1:
        raise ValueError(f"--probes must be at least 1, got {settings.probes}: a bundle is proved by its probes")
    if settings.reader == "adapter" and settings.dtype is not None:
        raise ValueError(
            f"--dtype {settings.dtype} would be ignored: with --reader adapter weights keep their types; leave it out"
        )
    if settings.abstain_below is not None and not 0 <= settings.abstain_below <= 1:
        raise ValueError(f"--abstain must be a probability, got {settings.abstain_below}")
    if settings.corpus == "pointer" and not has_evidence:
        raise ValueError("--corpus pointer would be ignored: this run has no evidence; leave it out")
    if settings.onnx:
        from medrag_lightning.handoff.bundle.onnx_towers import check_onnx_installed

        check_onnx_installed()
