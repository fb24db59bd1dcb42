"""Two processes that find no pairs build and write them both: the folder is complete, and both are served the same."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pair_building_ddp_script
import pytest
from pair_building_ddp_script import served

sys.path.insert(0, str(Path(__file__).parents[1] / "data"))
from knowledge_world import write_table

from medrag_lightning.artifacts import counter_rng
from medrag_lightning.data.pair_building import build_or_read
from medrag_lightning.records import Split


def says(query, condition):
    """A reader that is right every other time."""
    shown = [*condition.evidence_ids, str(condition.image), str(condition.corruption)]
    right = counter_rng(0, query.id, *shown).random() < 0.5
    return query.answer if right else next(choice for choice in query.choices if choice != query.answer)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """A folder with a score table, and the pairs that one process makes of it."""
    folder = tmp_path_factory.mktemp("building")
    data = served(folder, "alone")
    data.prepare_data()
    data.setup("fit")
    write_table(folder / "table", data.world(), says)
    return folder, build_or_read(data.world(), data.preference)


@pytest.mark.parametrize("how", ["at_once", pytest.param("late", marks=pytest.mark.slow)])
def test_both_processes_see_the_pairs_of_one(alone, how):
    folder, wanted = alone
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONHASHSEED"}
    paths = [str(Path(pair_building_ddp_script.__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, pair_building_ddp_script.__file__, str(folder), how]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    one, other = (json.loads((folder / f"{how}.{rank}.json").read_text()) for rank in (0, 1))
    assert one["hash"] != other["hash"], "two interpreters that order sets alike would show nothing"
    assert (one["built"], other["built"]) == (1, 1)
    assert (one["read"], other["read"]) == (1, 1), "training and validation are served from one reading"
    assert one["pairs"] == other["pairs"] == {str(split): list(map(repr, mine)) for split, mine in wanted.pairs.items()}
    assert len(one["pairs"]["train"]) > 10
    assert wanted.pairs[Split.VAL]
    files = {path.name: path.read_bytes() for path in (folder / "alone").iterdir()}
    assert {path.name: path.read_bytes() for path in (folder / how).iterdir()} == files
