"""The verb `verify`: whether a bundle is whole and unchanged, and what is inside. Needs neither torch nor a GPU."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from medrag_lightning.cli.outcome import tell
from medrag_lightning.cli.strict_arguments import parse_strictly

FAULTY = 1


def run_verify(arguments: Sequence[str]) -> None:
    """Prints what is inside a bundle, or every fault.

    Raises:
        SystemExit: 1 where there is a fault.
    """
    parser = argparse.ArgumentParser(prog="medrag_lightning verify", add_help=False, exit_on_error=False, allow_abbrev=False)
    parser.add_argument("bundle")
    parser.add_argument("--corpus")
    told = parse_strictly("verify", parser, arguments, "usage: verify BUNDLE [--corpus FOLDER]")
    from medrag_lightning.handoff.bundle.verify import verify_bundle

    found = verify_bundle(told.bundle, told.corpus)
    if found.faults:
        for fault in found.faults:
            tell(fault, sys.stdout)
        count = len(found.faults)
        tell(f"{told.bundle}: {count} fault{'' if count == 1 else 's'}; do not use it: copy or export it again", sys.stdout)
        raise SystemExit(FAULTY)
    width = max(len(name) for name, _ in found.inside)
    for name, value in found.inside:
        tell(f"{name:<{width}}  {value}", sys.stdout)
    tell(f"{told.bundle}: whole and unchanged", sys.stdout)
