"""The report of a made-up run: offline, escaped, without names, honest about what is absent; seen in a real browser."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts" / "bench"))
import report as bench

from medrag_lightning.cli import main
from medrag_lightning.handoff.report import Options, write_report
from medrag_lightning.handoff.report import report as module
from medrag_lightning.handoff.report.predictions import read_predictions
from medrag_lightning.handoff.report.run_files import find_runs

HOSTILE = '<script>document.title="broken in"</script><img src=x onerror=alert(1)> & "quoted" \u202e'
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def hostile(number, told):
    return f"{HOSTILE} seen in PATIENT9{number:05d}, STUDY9{number:05d}. {told}" if number % 2 else told


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run of 60 questions with 3 documents each, every second document hostile."""
    return bench.make_run(tmp_path_factory.mktemp("report") / "SURNAME-folder", 60, 3, image_px=64, text_of=hostile)


@pytest.fixture
def run(made, tmp_path):
    """A copy of its run folder."""
    return Path(shutil.copytree(made, tmp_path / "made_up"))


class Parsed(HTMLParser):
    """Tags, links and text of a page."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.links, self.words, self.handlers = set(), [], [], []
        self.feed(Path(path).read_text(encoding="utf-8"))

    def handle_starttag(self, name, attributes):
        self.tags.add(name)
        self.links += [value for key, value in attributes if key in ("href", "src", "action", "data", "xlink:href", "srcset")]
        self.handlers += [key for key, _ in attributes if key.startswith("on")]

    def handle_data(self, data):
        self.words.append(data)


def test_the_page_needs_nothing_and_runs_nothing(run):
    told = write_report(run)
    page = Parsed(told.path)
    assert not page.tags & {"script", "iframe", "object", "embed", "link", "form", "base", "img"}
    assert not page.handlers
    assert page.links
    assert all(link.startswith(("#", "data:image/webp;base64,")) for link in page.links)
    text = told.path.read_text()
    assert not re.search(r"https?:|url\(|@import", text)
    assert "default-src &#x27;none&#x27;; img-src data:" in text
    words = "".join(page.words)
    assert '<script>document.title="broken in"</script>' in words, "hostile text is shown as text"
    assert "\u202e" not in text
    assert told.megabytes < 3


def test_nobody_is_named(run):
    text = write_report(run).path.read_text()
    canaries = ("PATIENT", "STUDY", "case-0", "doc-0", "SURNAME", ".jpg", str(run))
    assert not [canary for canary in canaries if canary in text]
    assert "[hidden]" in text
    shown = write_report(run, Options(show_ids=True)).path.read_text()
    assert "case-0" in shown
    assert "doc-0" in shown
    assert "PATIENT" not in shown


def test_names_depend_on_a_key_that_stays_with_the_run(run):
    def names():
        return set(re.findall(r"[qd]-[0-9a-f]{8}", write_report(run).path.read_text()))

    first = names()
    assert len(first) > 60
    assert (run / ".report_key").stat().st_mode & 0o777 == 0o600
    assert names() == first
    (run / ".report_key").unlink()
    assert not names() & first
    (run / ".report_key").write_text("short\n")
    with pytest.raises(ValueError, match="not a key"):
        write_report(run)


def test_every_part_is_there_or_says_why(run):
    told = write_report(run)
    page = told.path.read_text()
    assert {title for title, _ in told.absent} == {"Comparison with other runs", "Spoilt evidence", "What the reader relies on"}
    for heading in ("Metrics", "Helped or hurt", "Inconsistent retrieval", "Oracle gap", "Retrieval gallery", "Worst cases"):
        assert f"{heading}</h" in page
    assert page.count("Not computed: ") >= 4
    assert "AttentionMassWriter" in page, "the command that makes what is missing"
    shutil.rmtree(run / "predictions")
    (run / "results.json").unlink()
    absent = dict(write_report(run).absent)
    assert absent["Metrics"] == "the run has no results.json"
    assert absent["Retrieval gallery"] == "the run has no predictions"
    assert "Learning curves" not in absent


def test_tables_that_are_gone_cost_images_alone(run, made):
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(config.replace("corpus.jsonl", "gone.jsonl"))
    told = write_report(run)
    assert any("gone.jsonl" in warning for warning in told.warnings)
    page = told.path.read_text()
    assert "data:image" not in page
    assert "gone.jsonl" not in page, "the page itself tells no file names"
    assert "could not be read" in page
    assert "removed: answer" in page


def test_a_threshold_of_test_questions_must_not_be_used(run):
    page = write_report(run, Options(max_risk=0.4)).path.read_text()
    rule = json.loads((run / "abstention.json").read_text())
    assert rule["usable"] is False
    assert rule["chosen_on"] == "test"
    assert "must not be used" in page
    shutil.copy(run / "predictions" / "test.jsonl", run / "predictions" / "val.jsonl")
    page = write_report(run, Options(max_risk=0.4)).path.read_text()
    chosen = json.loads((run / "abstention.json").read_text())
    assert chosen["usable"] is True
    assert chosen["chosen_on"] == "val"
    assert chosen["threshold"] == rule["threshold"], "the same questions, mixed again by the same settings"
    assert "must not be used" not in page


def test_a_recipe_is_told_by_its_test_with_its_steps_beside_it(run, tmp_path):
    recipe = tmp_path / "recipe"
    for name in ("test_before", "tune", "test"):
        shutil.copytree(run, recipe / name)
    (recipe / "tune" / "results.json").unlink()
    (recipe / "tune" / "predictions" / "test.jsonl").rename(recipe / "tune" / "predictions" / "val.jsonl")
    (recipe / "tune" / "step.json").write_text(json.dumps({"settings": {"verb": "validate"}}))
    assert find_runs(recipe).main.name == "test"
    told = write_report(recipe)
    assert told.path == recipe / "report.html"
    page = told.path.read_text()
    assert "validation questions of step tune" in page or "None: no threshold" in page
    assert "+0.0 [+0.0, +0.0]" in page, "the same answers, compared with themselves"
    assert json.loads((recipe / "test" / "abstention.json").read_text())["chosen_on"] == "val"
    compared = write_report(run, Options(compare=(recipe,)))
    assert "Comparison with other runs" not in dict(compared.absent)


def test_the_file_stays_within_its_size(run, monkeypatch):
    whole = write_report(run, Options(queries=60))
    limit = int(whole.megabytes * 1e6 * 0.6) + module.RESERVE_BYTES
    monkeypatch.setattr(module, "MAX_BYTES", limit)
    told = write_report(run, Options(queries=60))
    assert told.megabytes * 1e6 <= limit
    assert told.megabytes < whole.megabytes
    monkeypatch.setattr(module, "MAX_BYTES", module.RESERVE_BYTES)
    none = write_report(run, Options(queries=60))
    assert any("left out" in warning for warning in none.warnings)


def test_thumbnails_are_small_and_bare(made, tmp_path):
    import base64
    import io

    folder = tmp_path / "world"
    run = bench.make_run(folder, 4, 2, image_px=512)
    exif = Image.Exif()
    exif[0x010E] = "SURNAME in a tag"
    for path in (folder / "images").iterdir():
        with Image.open(path) as image:
            image.load()
        image.save(path, exif=exif, comment=b"SURNAME in a comment")
    page = write_report(run).path.read_text()
    found = [base64.b64decode(data) for data in re.findall(r"base64,([^\"]+)", page)]
    assert found
    for data in found:
        assert b"SURNAME" not in data
        assert max(Image.open(io.BytesIO(data)).size) == 160
    whole = np.asarray(Image.open(io.BytesIO(found[0])).convert("RGB"), float)
    assert whole.std() > 10


def test_predictions_come_back_as_they_were_written(made):
    queries = bench.JsonlQueries(str(made.parents[1] / "test.jsonl"), str(made.parents[1] / "images")).queries()
    documents = [f"doc-{n:05d}" for n in range(60, 240)]
    again = read_predictions(made / "predictions" / "test.jsonl")
    assert [replace(p, cited=()) for p in again] == [replace(p, cited=()) for p in bench.predict(queries, documents, 3)]


def test_damage_is_told_with_its_line(run):
    path = run / "predictions" / "test.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:4], '{"query_id": 1}', *lines[5:]]))
    with pytest.raises(ValueError, match=r"test\.jsonl:5: not a prediction as a run writes it: no key 'regime'"):
        write_report(run)


def test_the_verb(run, capsys):
    main(["report", str(run), "--queries", "5"])
    out = capsys.readouterr().out
    assert "not there: Spoilt evidence: no evidence was spoilt in this run" in out
    assert "report.html (0." in out
    for wrong, why in (
        (["report"], "name the folder"),
        (["report", str(run), "--querys", "5"], "not understood: --querys 5"),
        (["report", str(run / "nowhere")], "is not a folder"),
        (["report", str(run / "predictions")], "holds no run"),
        (["report", str(run), "--ckpt_path", "best"], "would be ignored"),
        (["report", str(run), "--remove_each"], "read one by one"),
        (["report", str(run), "--queries", "0"], "at least 1"),
    ):
        with pytest.raises(SystemExit, match="2"):
            main(wrong)
        assert why in capsys.readouterr().err


@pytest.mark.parametrize("width", [1280, 400])
def test_a_browser_shows_it(run, tmp_path, width):
    browser = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if browser is None:
        pytest.skip(f"no browser on PATH ({', '.join(BROWSERS)})")
    page, shot = write_report(run).path, tmp_path / "shot.png"
    switches = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--force-device-scale-factor=1"]
    switches += [f"--window-size={width},4000", f"--screenshot={shot}", "--enable-logging=stderr", "--v=0"]
    switches += ["--virtual-time-budget=5000", f"--user-data-dir={tmp_path / 'profile'}", page.as_uri()]
    done = subprocess.run([browser, *switches], capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "CONSOLE" not in done.stderr, [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    picture = np.asarray(Image.open(shot).convert("RGB"), float)
    assert picture.shape == (4000, width, 3)
    bands = [picture[start : start + 500].std() for start in range(0, 4000, 500)]
    assert sum(deviation > 8 for deviation in bands) >= 6, bands
    colours = {tuple(colour) for colour in (picture[::4, ::4].reshape(-1, 3) // 32).astype(int).tolist()}
    assert len(colours) > 30, "charts and images are coloured"
