"""The report's part on a calibration: k alone and the joint choice, with bounds; the risk here; nothing where there is none."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts" / "bench"))
import report as bench

from medrag_lightning.artifacts import write_json
from medrag_lightning.calibration import CalibrationSettings, Outcomes, calibrate
from medrag_lightning.calibration.artifact import write
from medrag_lightning.handoff.report import write_report

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
OF = dict.fromkeys(("reader", "template", "corpus", "source", "evidence", "fusion", "calibration_set"), "x")
WORDS = (
    *("with 2 candidates", "alpha 0.35", "exchangeable", "120 patients", "4 choices, bonferroni", "Left out: 3 questions"),
    *("these answers were not given by it", "answered (%)", "&lt;b&gt;a note&lt;/b&gt;"),
)


def calibration(path, settings, harder=0.0):
    """Of 120 patients; more than 2 candidates are worse, and a probability tells."""
    rng = np.random.default_rng(0)
    sure_N = rng.uniform(0.4, 1.0, 120)
    loss_KN = np.array([rng.random(120) > np.clip(sure_N + gain - harder, 0, 1) for gain in (-0.3, 0.1, 0.15, 0.1, -0.1)])
    outcomes = Outcomes((0, 1, 2, 4, 8), loss_KN.astype(float), np.tile(sure_N, (5, 1)), tuple(map(str, range(120))))
    path.parent.mkdir(parents=True, exist_ok=True)
    more = {"split": "val", "left_out": {"not scored": 3}, "notes": ["<b>a note</b>"]}
    return write(path, calibrate(outcomes, settings), "error", "patients", OF, **more)


@pytest.fixture
def recipe(tmp_path):
    """A step `test` of 40 questions that answered by the calibration beside it, and a joint one."""
    made = bench.make_run(tmp_path / "made", 40, 3, image_px=32)
    run = Path(shutil.copytree(made, made.parent / "test"))
    shutil.rmtree(made)
    write_json(run / "step.json", {"settings": {"verb": "test"}})
    place = run.parent
    calibration(place / "calibrate" / "calibration.json", CalibrationSettings(0.35, 0.1, (1, 2, 4, 8)))
    joint = CalibrationSettings(0.3, 0.1, (1, 2, 4), (0.0, 0.5, 0.7), (None, 0.9), "learned_sequence")
    calibration(place / "joint" / "calibration.json", joint)
    told = yaml.safe_load((run / "config.yaml").read_text())
    inner = told["data"].get("init_args", told["data"])
    rule = {"rule": "calibrated", "calibration": f"{place}/calibrate/calibration.json"}
    inner["source"] = {"class_path": "medrag_lightning.retrieval.selected.SelectedSearch", "init_args": {"rule": rule}}
    (run / "config.yaml").write_text(yaml.safe_dump(told))
    return run


def test_choices_bounds_and_the_risk_here(recipe):
    told = write_report(recipe)
    page = told.path.read_text()
    assert "Calibrated selection</h" in page
    for words in WORDS:
        assert words in page, words
    assert "risk " in page
    assert " alpha</td>" in page, "the risk here stands beside alpha"
    tested = json.loads((recipe.parent / "calibrate" / "calibration.json").read_text())["tested"]
    for row in tested:
        assert f"{100 * row['bound']:.1f}" in page


def test_no_guarantee_is_said_aloud(recipe):
    calibration(recipe.parent / "calibrate" / "calibration.json", CalibrationSettings(0.1, 0.05, (1, 2)), harder=0.3)
    page = write_report(recipe).path.read_text()
    assert "NO: no choice was shown to keep the risk" in page


def test_nothing_is_said_where_nothing_was_calibrated(recipe):
    for name in ("calibrate", "joint"):
        shutil.rmtree(recipe.parent / name)
    told = write_report(recipe)
    assert "Calibrated selection" not in told.path.read_text()
    assert "Calibrated selection" not in dict(told.absent)


@pytest.mark.parametrize("width", [1280, 400])
def test_a_browser_shows_it(recipe, tmp_path, width):
    browser = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if browser is None:
        pytest.skip(f"no browser on PATH ({', '.join(BROWSERS)})")
    told, picture = write_report(recipe), tmp_path / f"{width}.png"
    page = told.path.read_text()
    start = page.index('<section id="calibrated"')
    head, part = page[: page.index("<body")], page[start : page.index("</section>", start) + len("</section>")]
    alone = tmp_path / "part.html"
    alone.write_text(f"{head}<body><main>{part}</main></body></html>")
    shot = (f"--screenshot={picture}", f"--window-size={width},2600", "--virtual-time-budget=2000")
    quiet = ("--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--v=0")
    command = [browser, *quiet, *shot, alone.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert "CONSOLE" not in done.stderr
    pixels = np.asarray(Image.open(picture).convert("L"))
    assert pixels.std() > 5
