"""The arithmetic of a plan: steps, validations, seconds and bytes from what a probe measured."""

import math
from dataclasses import replace

import pytest

from medrag_lightning.cli import plan_figures as figures
from medrag_lightning.cli.plan_figures import Evaluated, Probe, Rung, Timed, estimate

MB = 10**6


def probe(**changes) -> Probe:
    """100 samples in batches of 8, 3 epochs; a batch takes 0.5 s to make and 1 s to learn from."""
    told = Probe(
        samples=100,
        batch_size=8,
        train_batches=13,
        epochs=3,
        ladder=[Rung(1, 1.0, 100 * MB), Rung(4, 1.0, 130 * MB), Rung(8, 1.0, 170 * MB)],
        cold=[Timed(0.5, 1.0, True)] * 3,
        warm=[Timed(0.5, 1.0, True)] * 3,
        evaluations=[Evaluated("val", 4, 30, 0.1, 0.4), Evaluated("test", 10, 80, 0.0, 2.0)],
        start_seconds=20.0,
        peak_train=170 * MB,
        peak_evaluation=150 * MB,
        checkpoint_bytes=10 * MB,
        checkpoint_seconds=0.5,
        checkpoints_kept=2,
        checkpoint_every=10,
        prediction_bytes=1000.0,
    )
    return replace(told, **changes)


def test_a_fit_is_added_up():
    told = estimate(probe())
    assert (told.batches, told.steps, told.validations) == (39, 39, 3)
    assert told.train_seconds == pytest.approx(39 * 1.5)
    assert told.validate_seconds == pytest.approx(3 * 4 * 0.5)
    assert told.test_seconds == pytest.approx(20.0)
    assert told.checkpoint_seconds == pytest.approx((3 * 2 + 2 + 3) * 0.5)
    assert told.seconds == pytest.approx(20 + 58.5 + 6 + 20 + 5.5)
    assert told.peak_bytes == 170 * MB
    assert told.is_measured
    assert told.disk_bytes == 20 * MB + 110 * 1000
    assert told.disk_peak_bytes == 30 * MB + 110 * 1000


@pytest.mark.parametrize(
    ("changes", "batches", "steps"),
    [
        ({"epochs": None, "max_steps": 20}, 20, 20),
        ({"max_steps": 1000}, 39, 39),
        ({"accumulate": 4}, 39, 3 * math.ceil(13 / 4)),  # the last batches of an epoch make a step of their own
        ({"accumulate": 4, "epochs": None, "max_steps": 6}, 13 + 2 * 4, 6),
        ({"epochs": -1}, None, None),
        ({"train_batches": 0, "samples": 0}, 0, 0),
    ],
)
def test_batches_and_steps_are_those_of_lightning(changes, batches, steps):
    told = estimate(probe(**changes))
    assert (told.batches, told.steps) == (batches, steps)


@pytest.mark.parametrize(
    ("changes", "passes"),
    [
        ({}, 3),
        ({"val_every_epochs": 2}, 1),
        ({"val_interval": 0.5}, 3 * 2),
        ({"val_interval": 5}, 3 * 2),
        ({"val_every_epochs": None, "val_interval": 5}, 39 // 5),
        ({"max_steps": 20, "val_interval": 5}, 2 + 1),
        ({"evaluations": []}, 0),
    ],
)
def test_validations_are_counted(changes, passes):
    assert estimate(probe(**changes)).validations == passes


def test_the_first_epoch_has_its_own_pace():
    slow = [Timed(0.5, 3.0, True)]
    assert estimate(probe(cold=slow)).train_seconds == pytest.approx(13 * 3.5 + 26 * 1.5)


def test_workers_make_batches_while_others_are_learnt_from():
    assert figures.batch_seconds(probe(workers=2), [Timed(0.5, 1.0, True)]) == 1.0
    assert figures.batch_seconds(probe(workers=2), [Timed(4.0, 1.0, True)]) == 2.0


def test_only_the_runs_own_share_of_batches_steps():
    timed = [Timed(0.0, 1.0, False), Timed(0.0, 2.0, True)]
    assert figures.batch_seconds(probe(accumulate=4), timed) == pytest.approx((3 * 1.0 + 2.0) / 4)


def test_memory_that_was_not_tried_lies_on_a_straight_line():
    short = probe(batch_size=32, ladder=[Rung(1, 1.0, 100 * MB), Rung(4, 1.0, 130 * MB)], peak_train=130 * MB, cold=[], warm=[])
    told = estimate(short)
    assert told.peak_bytes == 130 * MB + 28 * 10 * MB
    assert not told.is_measured
    assert told.train_seconds == pytest.approx(39 * 32 / 4)  # seconds of the largest batch, by its samples
    assert figures.fitting_samples(short, 200 * MB) == 11
    assert figures.fitting_samples(short, 90 * MB) == 0


def test_a_gpu_holds_what_others_took_as_well_and_processes_share_no_main_memory():
    told = estimate(probe(device_total=1000 * MB, device_train=300 * MB, device_evaluation=350 * MB, device_other=50 * MB))
    assert (told.device_bytes, told.peak_bytes) == (400 * MB, 170 * MB)
    assert estimate(probe(processes=4)).peak_bytes == 4 * 170 * MB


def test_a_store_that_is_there_takes_no_more_disk():
    assert estimate(probe(store="computed", store_bytes=MB)).disk_bytes == estimate(probe(store="there")).disk_bytes + MB
