"""The verb `export`: a run as one folder that answers questions elsewhere."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medrag_lightning.cli.generator_options import add_generator_options, check_generator_options
from medrag_lightning.cli.outcome import tell
from medrag_lightning.cli.strict_arguments import parse_strictly

USAGE = "usage: export RUN --ckpt_path best|last|FILE --output FOLDER; see export --help"


def run_export(arguments: Sequence[str]) -> None:
    """Exports the run that the arguments name, and says what is inside and how well it agrees."""
    told = _parse(arguments)
    began = time.monotonic()
    from medrag_lightning.answering.calibrated import answer_by
    from medrag_lightning.calibration import Calibration
    from medrag_lightning.handoff.bundle.export import export_bundle
    from medrag_lightning.handoff.bundle.from_run import generator_of, read_run, suggested_threshold
    from medrag_lightning.handoff.bundle.request import Settings
    from medrag_lightning.handoff.bundle.swap import refuse_existing

    output = Path(told.output)
    refuse_existing(output, told.overwrite)
    generator = None if told.generator is None else generator_of(told.generator, told.generator_ckpt_path)
    abstain = suggested_threshold(Path(told.run)) if told.abstain == "report" else told.abstain
    settings = Settings(
        output, told.reader, told.corpus, told.dtype, told.probes, told.onnx,
        None if abstain is None else _probability(abstain), told.overwrite, told.device,
    )  # fmt: skip
    say = _Teller(began)
    calibration = None if told.calibration is None else Calibration.read(told.calibration)
    say(f"reading {told.run}")
    run = read_run(told.run, told.ckpt_path, told.fusion, told.system, generator, told.without_generator)
    if calibration is not None:
        answer_by(run.answerer, calibration)
    made = export_bundle(run, settings, say, say.progress)
    parity, seconds = made["parity"], time.monotonic() - began
    size = sum(path.stat().st_size for path in output.rglob("*") if path.is_file())
    tell(
        f"{output}: {size / 1e6:.1f} MB in {seconds:.0f} s; {parity['probes']} probes answered alike in a clean process, "
        f"log-probabilities within {parity['max_abs_delta_logp_nats']:.1e} nats (allowed {parity['tolerance_nats']:.0e}); "
        f"against the run as trained {parity['max_abs_delta_as_trained_nats']:.1e}",
        sys.stdout,
    )
    if "lacks" in made:
        tell(f"beware: {made['lacks']}", sys.stdout)
    tell(f"next: python -m medrag_lightning verify {output}", sys.stdout)


class _Teller:
    """Says what is being done, and how far it is: at most a line in five seconds, with the time that is left."""

    def __init__(self, began: float) -> None:
        self.began, self.what, self.start, self.last = began, "", began, began

    def __call__(self, text: str) -> None:
        tell(f"[{time.monotonic() - self.began:5.0f} s] {text}", sys.stderr)

    def progress(self, what: str, done: int, count: int) -> None:
        """Hears that `done` of `count` are done."""
        now = time.monotonic()
        if what != self.what:
            self.what, self.start, self.last = what, now, now
        if now - self.last > 5 and done:
            self(f"{what}: {done} of {count}, {(count - done) * (now - self.start) / done:.0f} s left")
            self.last = now


def _parse(arguments: Sequence[str]) -> Any:
    parser = argparse.ArgumentParser(prog="medrag_lightning export", add_help=False, exit_on_error=False, allow_abbrev=False)
    parser.add_argument("run")
    parser.add_argument("--ckpt_path", required=True)
    parser.add_argument("--output", required=True)
    parser.add_argument("--reader", choices=["merged", "adapter", "both"], default="merged")
    parser.add_argument("--corpus", choices=["include", "pointer"], default="include")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"])
    parser.add_argument("--probes", type=int, default=8)
    parser.add_argument("--onnx", action="store_true")
    parser.add_argument("--system", default="")
    parser.add_argument("--fusion")
    add_generator_options(parser)
    parser.add_argument("--abstain")
    parser.add_argument("--calibration")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--overwrite", action="store_true")
    told = parse_strictly("export", parser, arguments, USAGE)
    check_generator_options(told)
    if told.calibration is not None and told.abstain is not None:
        raise ValueError("export: --abstain would be ignored beside --calibration, which says when to abstain; leave one out")
    return told


def _probability(text: str | float) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise ValueError(f"--abstain must be a probability or `report`, got {text!r}") from error
