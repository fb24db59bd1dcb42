import lightning as L
import pytest
from rich.console import Console

from callbacks.csv_logger import AppendingCSVLogger
from callbacks.preference_margins import PreferenceMargins, draw_margins, show

CURVES = {
    "train/cross_modality_margin": ([0, 1, 2], [0.0, 0.1, 0.3]),
    "train/cross_modality_chosen_gain": ([0, 1, 2], [0.0, 0.1, 0.2]),
    "train/cross_modality_rejected_gain": ([0, 1, 2], [0.0, 0.0, -0.1]),
    "val/cross_modality_margin": ([2], [0.25]),
    "val/cross_modality_accuracy": ([2], [0.75]),
    "val/cross_modality_chosen_logp": ([2], [-1.5]),
    "train/knowledge_robustness_margin": ([1], [0.5]),
}


def test_the_table_has_the_last_validation_of_each_kind():
    console = Console(width=120, record=True)
    show(CURVES, console)
    told = console.export_text()
    (row,) = [line for line in told.splitlines() if line.startswith("cross modality")]
    assert row.split()[2:] == ["+0.250", "0.750", "-1.500", "-", "-", "-"]
    assert "knowledge robustness" in told
    assert "knowledge utilisation" not in told


def test_without_validation_it_is_the_last_step():
    console = Console(width=120, record=True)
    show({name: curve for name, curve in CURVES.items() if name.startswith("train/")}, console)
    told = console.export_text()
    assert "last step" in told
    assert "+0.300" in told


def test_the_picture_is_a_png():
    assert draw_margins(CURVES).startswith(b"\x89PNG")


class Tuning(L.LightningModule):
    feed = "preference"


def test_a_fit_is_told_from_its_metrics(tmp_path, capsys):
    logger = AppendingCSVLogger(str(tmp_path))
    logger.log_metrics({name: curve[1][-1] for name, curve in CURVES.items()}, step=2)
    trainer = L.Trainer(default_root_dir=tmp_path, logger=logger, accelerator="cpu", enable_checkpointing=False)
    PreferenceMargins().on_fit_end(trainer, Tuning())
    assert (tmp_path / "plots" / "preference_margins.png").stat().st_size > 5000
    assert "+0.250" in capsys.readouterr().out


def test_another_stage_is_refused(tmp_path):
    trainer = L.Trainer(default_root_dir=tmp_path, logger=False, accelerator="cpu", enable_checkpointing=False)
    with pytest.raises(ValueError, match="another stage"):
        PreferenceMargins().on_fit_end(trainer, L.LightningModule())
