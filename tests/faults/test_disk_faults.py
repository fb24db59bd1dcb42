"""The n-th write, fsync, rename, open, ... fails, for every n: the old one stays, no litter, the message says what helps."""

import pytest
from drills import fail_everywhere, kill_everywhere
from written_things import THINGS

NAMES = [thing.name for thing in THINGS]


@pytest.mark.parametrize("lasting", [False, True], ids=["once", "from then on"])
@pytest.mark.parametrize("thing", THINGS, ids=NAMES)
def test_every_failing_call_leaves_the_old_one(thing, lasting, world, record_property):
    outcome = fail_everywhere(thing, world, lasting)
    record_property("drill", ("failing call", outcome.passed, outcome.tried))
    assert outcome.tried > 4
    assert not outcome.wrong, "\n".join(outcome.wrong)


@pytest.mark.parametrize("thing", THINGS, ids=NAMES)
def test_every_kill_leaves_the_old_one(thing, world, record_property):
    outcome = kill_everywhere(thing, world)
    record_property("drill", ("kill while writing", outcome.passed, outcome.tried))
    assert outcome.tried > 4
    assert not outcome.wrong, "\n".join(outcome.wrong)
