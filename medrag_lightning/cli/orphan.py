"""A process that another one started ends when that one has ended, instead of waiting for it for ever."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Mapping

from medrag_lightning.cli.outcome import tell
from medrag_lightning.cli.run_folder import CHILD_VARIABLE

LOOK_SECONDS, GRACE_SECONDS, ORPHANED = 2.0, 10.0, 1


def end_with_parent(environment: Mapping[str, str] = os.environ) -> threading.Thread | None:
    """Watches the first process of a run from those that it has started; None in the first process itself.

    A rank whose first process was killed may wait in a collective until a time-out of half an hour (NCCL), holding a GPU.
    Lightning watches the other direction, torchrun and SLURM both.
    """
    if environment.get("LOCAL_RANK", "0") == "0" or CHILD_VARIABLE not in environment:
        return None
    watch = threading.Thread(target=_watch, args=(os.getppid(),), name="parent-watch", daemon=True)
    watch.start()
    return watch


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(LOOK_SECONDS)
    time.sleep(GRACE_SECONDS)  # a collective that notices by itself tells more
    tell("the first process of this run has ended, and so does this one. --ckpt_path last goes on with the run", sys.stderr)
    os._exit(ORPHANED)
