"""metrics.csv of an interrupted and resumed run is that of a run that never stopped."""

import csv

import pytest

from callbacks.csv_logger import AppendingCSVLogger


def rows(folder):
    with (folder / "metrics.csv").open() as stream:
        return [{k: v for k, v in row.items() if v} for row in csv.DictReader(stream)]


def log(logger, steps, validate_at=()):
    for step in steps:
        logger.log_metrics({"train/loss": step / 10, "epoch": 0}, step)
        if step in validate_at:
            logger.log_metrics({"val/loss": step / 5, "epoch": 0}, step)


def test_new_columns_join_and_old_rows_stay(tmp_path):
    logger = AppendingCSVLogger(str(tmp_path))
    log(logger, range(3), validate_at=[1])
    assert rows(tmp_path)[2] == {"val/loss": "0.2", "epoch": "0", "step": "1"}
    assert [row["step"] for row in rows(tmp_path)] == ["0", "1", "1", "2"]


@pytest.mark.parametrize("killed_after", [5, 6, 8])
@pytest.mark.parametrize("resumed_at", [3, 4, 5])
def test_resumed_file_equals_the_uninterrupted_one(tmp_path, killed_after, resumed_at):
    log(AppendingCSVLogger(str(tmp_path / "whole")), range(9), validate_at=[4, 8])
    log(AppendingCSVLogger(str(tmp_path / "cut")), range(killed_after + 1), validate_at=[4, 8])
    resumed = AppendingCSVLogger(str(tmp_path / "cut"))
    resumed.rewind(resumed_at)
    log(resumed, range(resumed_at, 9), validate_at=[4, 8])
    assert rows(tmp_path / "cut") == rows(tmp_path / "whole")


def test_rows_of_the_resumed_step_that_are_not_logged_again_stay(tmp_path):
    log(AppendingCSVLogger(str(tmp_path)), range(5), validate_at=[4])
    resumed = AppendingCSVLogger(str(tmp_path))
    resumed.rewind(4)
    log(resumed, range(5, 7))
    assert [row["step"] for row in rows(tmp_path)] == ["0", "1", "2", "3", "4", "4", "5", "6"]


def test_another_verb_appends(tmp_path):
    log(AppendingCSVLogger(str(tmp_path)), range(3))
    AppendingCSVLogger(str(tmp_path)).log_metrics({"test/accuracy": 0.5}, 0)
    assert len(rows(tmp_path)) == 4


@pytest.mark.parametrize("rest", ["7,", "7,0.1", "7"])
def test_a_row_cut_short_by_a_kill_is_dropped(tmp_path, rest):
    log(AppendingCSVLogger(str(tmp_path)), range(3))
    path = tmp_path / "metrics.csv"
    path.write_text(path.read_text() + rest)
    log(AppendingCSVLogger(str(tmp_path)), [3])
    assert [row["step"] for row in rows(tmp_path)] == ["0", "1", "2", "3"]


def test_rows_are_held_back_if_asked(tmp_path):
    logger = AppendingCSVLogger(str(tmp_path), flush_every_n_rows=10)
    log(logger, range(3))
    assert not logger.path.exists()
    logger.finalize("success")
    assert len(rows(tmp_path)) == 3
    with pytest.raises(ValueError, match="at least 1"):
        AppendingCSVLogger(str(tmp_path), flush_every_n_rows=0)
