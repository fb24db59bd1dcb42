"""Tunes the toy's reader on pairs that nobody has built yet, on two processes. Run by test_pair_building_ddp.py.

Both are new interpreters, whose sets and hashes of text fall differently. They build together, and then both are about to
write: HOW says whether they do so at once, or one when the other has finished and reads already.
"""

import json
import sys
import time
from pathlib import Path

import torch
from knowledge_toy import knowledge_data
from preference_world import stage, trainer

from medrag_lightning.data import pair_building, preference_feed
from medrag_lightning.data.knowledge import KnowledgePlan
from medrag_lightning.data.preference_plan import PreferencePlan
from medrag_lightning.preference_files import is_there

WAIT_SECONDS = 60


def served(folder: Path, pairs: str):
    knowledge = KnowledgePlan(draws=3, max_reports=2, max_documents=2, counter_image="noise")
    plan = PreferencePlan(str(folder / pairs), str(folder / "table"), rules="hkpt_v1", repeats="all")
    return knowledge_data(folder, batch_size=4, knowledge=knowledge, preference=plan, only="closed")


def run(folder: Path, how: str) -> None:
    """One fit; tells what this process built and read, and what it was served."""
    seen = {"built": 0, "read": 0}
    build, build_or_read = pair_building.build, preference_feed.build_or_read

    def together(*arguments):
        made = build(*arguments)
        seen["built"] += 1
        torch.distributed.barrier()
        end = time.monotonic() + WAIT_SECONDS
        while how == "late" and torch.distributed.get_rank() == 1 and not is_there(folder / how) and time.monotonic() < end:
            time.sleep(0.01)
        return made

    def counted(*arguments):
        seen["read"] += 1
        return build_or_read(*arguments)

    pair_building.build, preference_feed.build_or_read = together, counted
    data = served(folder, how)
    fit = trainer(folder, max_epochs=1, devices=2, strategy="ddp")
    fit.fit(stage(reference="adapter_off"), datamodule=data)
    found = data._feed().found
    told = {**seen, "hash": hash("text"), "pairs": {str(split): list(map(repr, mine)) for split, mine in found.pairs.items()}}
    (folder / f"{how}.{fit.global_rank}.json").write_text(json.dumps(told))


if __name__ == "__main__":
    torch.set_num_threads(1)
    run(Path(sys.argv[1]), sys.argv[2])
