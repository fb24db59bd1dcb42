"""The verb `answer`: one question, a file of questions, what is refused, and what is never printed."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "stages"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "answering"))
from test_answerer import answerer_of
from toy import COLOURS, data, stage, trainer

from medrag_lightning.answering import Answerer
from medrag_lightning.cli import answer_rows as rows_module
from medrag_lightning.cli import main

CHOICES = ",".join(COLOURS)


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Answerer]:
    folder = tmp_path_factory.mktemp("answer")
    module, served = stage(), data(folder, eval_batch_size=1)
    served.prepare_data()
    trainer(folder, max_epochs=1).fit(module, datamodule=served)
    query = next(q for q in served.split_queries("test") if q.image)
    (folder / "images").mkdir()
    served.world().open_image(query.image).save(folder / "images" / "asked.png")
    (folder / "bundle").mkdir()
    (folder / "bundle" / "bundle.json").write_text("{}")
    return folder, answerer_of(module, served)


@pytest.fixture
def bundle(parts, monkeypatch) -> Path:
    """A bundle that loads as the toy answerer; the room of bundles is not needed for it."""
    folder, answerer = parts
    answerer.abstain_below = None
    loader = types.ModuleType("medrag_lightning.handoff.bundle.load")
    loader.load_bundle = lambda path, device="cpu": answerer
    for name in ("medrag_lightning.handoff", "medrag_lightning.handoff.bundle"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, "medrag_lightning.handoff.bundle.load", loader)
    return folder / "bundle"


def ask(*arguments: object) -> None:
    main(["answer", *map(str, arguments)])


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    with pytest.raises(SystemExit) as ending:
        ask(*arguments)
    assert ending.value.code == 2
    return capsys.readouterr().err


def test_one_question_as_text_and_as_json(bundle, parts, capsys):
    asked = (bundle, "--question", "which colour?", "--image", bundle.parent / "images" / "asked.png", "--choices", CHOICES)
    ask(*asked, "--patient_id", "toy:SECRET-PATIENT", "--format", "json")
    told = json.loads(capsys.readouterr().out)
    expected = parts[1].ask("which colour?", bundle.parent / "images" / "asked.png", COLOURS, patient_id="toy:SECRET-PATIENT")
    assert told["answer"] == expected.text
    assert told["probability"] == expected.probability == max(map(float, _shares(expected)))
    assert sum(told["choices"].values()) == pytest.approx(1, abs=1e-5)
    assert not told["abstained"]
    assert len(told["evidence"]) == 3
    assert sum(row["weight"] for row in told["evidence"]) == pytest.approx(1)
    assert set(told["seconds"]) == {"retrieve", "encode", "read"}
    ask(*asked, "--patient_id", "toy:SECRET-PATIENT")
    text = capsys.readouterr().out
    assert text.startswith(f"answer: {expected.text} (probability {expected.probability:.3f})")
    for words in ("evidence:\n  1. d", "licence not known", "weight ", "time: ", "not a medical device"):
        assert words in text
    assert "SECRET" not in text + json.dumps(told)


def _shares(answer):
    import math

    return [math.exp(logp) for logp in answer.logp_nats]


def test_it_abstains_under_the_threshold_and_says_why(bundle, capsys):
    asked = (bundle, "--question", "which colour?", "--choices", CHOICES)
    ask(*asked, "--abstain_below", "1.0")
    text = capsys.readouterr().out
    assert text.startswith("abstains; it would have said: ")
    assert "below 1, under which this system abstains" in text
    ask(*asked, "--abstain_below", "none", "--format", "json")
    assert json.loads(capsys.readouterr().out)["abstained"] is False
    ask(bundle, "--question", "name the colour", "--abstain_below", "0.9", "--format", "json")
    told = json.loads(capsys.readouterr().out)
    assert told["probability"] is None
    assert any("does not apply" in warning for warning in told["warnings"])


ROWS = [
    {"id": "a", "question": "which colour?", "image": "asked.png", "choices": list(COLOURS), "patient_id": "toy:SECRET"},
    {"id": "b", "question": "which colour?", "image": "../../secret.png", "choices": list(COLOURS)},
    {"id": "c", "question": " "},
    "not JSON",
    {"id": "a", "question": "which colour?"},
    {"question": "name the colour", "image": "JANE_DOE_19700101.png"},
    {"id": "e", "question": "which colour?", "choise": ["a"]},
    {"id": "f", "question": "which colour?", "choices": ["red"]},
    {"id": "g", "question": "name the colour"},
]


def write(path: Path) -> Path:
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in ROWS) + "\n")
    return path


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_row_has_its_row_and_bad_ones_say_why(bundle, tmp_path, capsys):
    source, out = write(tmp_path / "in.jsonl"), tmp_path / "out" / "answers.jsonl"
    ask(bundle, "--jsonl", source, "--output", out, "--images", bundle.parent / "images")
    made = read(out)
    assert [row["line"] for row in made] == list(range(1, 10))
    assert [row["id"] for row in made] == ["a", "b", "c", None, "a", None, "e", "f", "g"]
    errors = {row["line"]: row["error"] for row in made if "error" in row}
    for line, words in {
        2: "lies outside", 3: "empty", 4: "not valid JSON", 5: "already used in line 1",
        6: "not there", 7: "did you mean", 8: "two",
    }.items():  # fmt: skip
        assert words in errors[line], errors
    assert set(errors) == {2, 3, 4, 5, 6, 7, 8}
    assert made[0]["answer"] in COLOURS
    written = out.read_text()
    for private in ("SECRET", "JANE_DOE", str(bundle.parent)):
        assert private not in written
    assert not out.with_name("answers.jsonl.partial").exists()
    assert "9 rows: 1 answered, 1 abstained, 7 errors" in capsys.readouterr().out


def test_an_interrupted_file_goes_on_and_another_threshold_begins_anew(bundle, parts, tmp_path, capsys, monkeypatch):
    source, out = write(tmp_path / "in.jsonl"), tmp_path / "answers.jsonl"
    given = (bundle, "--jsonl", source, "--output", out, "--images", bundle.parent / "images")
    asked, armed, real = [], [True], Answerer.ask

    def counted(self, question, *rest):
        if armed and len(asked) == 2:
            raise KeyboardInterrupt
        asked.append(question)
        return real(self, question, *rest)

    monkeypatch.setattr(Answerer, "ask", counted)
    with pytest.raises(SystemExit) as ending:
        ask(*given)
    assert ending.value.code == 130
    assert not out.exists()
    armed.clear()
    assert "stopped after 8 of 9 rows" in capsys.readouterr().err
    partial = out.with_name("answers.jsonl.partial")
    with partial.open("a") as stream:
        stream.write('{"id": "half a ro')  # as a kill leaves it
    asked.clear()
    ask(*given)
    assert "(1 from before)" in capsys.readouterr().out
    assert [row["line"] for row in read(out)] == list(range(1, 10))
    asked.clear()
    ask(*given)
    assert "(2 from before)" in capsys.readouterr().out, "errors are tried again, answers are not"
    asked.clear()
    ask(*given, "--abstain_below", "0.5")
    assert "from before" not in capsys.readouterr().out


def test_it_tells_how_long_it_takes(bundle, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(rows_module, "TELL_EVERY_SECONDS", 0.0)
    ask(bundle, "--jsonl", write(tmp_path / "in.jsonl"), "--output", tmp_path / "out.jsonl")
    assert "9 of 9 rows" in capsys.readouterr().err


def test_wrong_usage_is_told(bundle, tmp_path, capsys):
    source = write(tmp_path / "in.jsonl")
    assert "needs --question" in refused(capsys, bundle)
    assert "needs --output" in refused(capsys, bundle, "--jsonl", source)
    assert "is not a folder" in refused(capsys, tmp_path / "none", "--question", "x")
    assert "--question would be ignored" in refused(capsys, bundle, "--jsonl", source, "--output", "o", "--question", "x")
    assert "unrecognized arguments: --imag" in refused(capsys, bundle, "--question", "x", "--imag", "y")
    assert "not a probability" in refused(capsys, bundle, "--question", "x", "--abstain_below", "2")
    assert "not a JSON list" in refused(capsys, bundle, "--question", "x", "--choices", "[1]")
    assert "file of questions itself" in refused(capsys, bundle, "--jsonl", source, "--output", source)
    assert "expected JSON lines" in refused(capsys, bundle, "--jsonl", bundle / "bundle.json", "--output", "o")
    assert "is a URL" in refused(capsys, bundle, "--question", "x", "--image", "https://x.org/a.png")


def test_choices_may_hold_commas(bundle, capsys):
    ask(bundle, "--question", "which?", "--choices", '["red, dark", "blue"]', "--format", "json")
    assert set(json.loads(capsys.readouterr().out)["choices"]) == {"red, dark", "blue"}


def test_a_missing_extra_is_named(monkeypatch, capsys, tmp_path):
    import importlib.util

    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name in ("torch", "lightning") else real(name, *a)
    )
    told = refused(capsys, tmp_path, "--question", "x")
    assert "needs the extra 'runtime', which is not installed (no torch): pip install 'medrag-lightning[runtime]'" in told
    with pytest.raises(SystemExit):
        main(["fit"])
    assert "pip install 'medrag-lightning[train]'" in capsys.readouterr().err


def test_earlier_turns_come_from_a_file_or_a_row(bundle, parts, tmp_path, capsys):
    from medrag_lightning.answering.dialogue import UNUSED

    turns = tmp_path / "turns.json"
    turns.write_text('[["is it a card?", "yes"]]')
    asked = (bundle, "--question", "which colour?", "--choices", CHOICES)
    ask(*asked, "--history", turns, "--format", "json")
    assert UNUSED in json.loads(capsys.readouterr().out)["warnings"]
    turns.write_text('[["is it a card?"]]')
    assert "turns.json: 'history', turn 1 is ['is it a card?']; expected [question, answer]" in refused(
        capsys, *asked, "--history", turns
    )
    assert "is not there: no such file; give a JSON file" in refused(capsys, *asked, "--history", tmp_path / "none.json")
    rows = [{"question": "which colour?", "choices": list(COLOURS), "history": told} for told in ([["a?", "b"]], None, "cough")]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    many = (bundle, "--jsonl", tmp_path / "in.jsonl", "--output", tmp_path / "out.jsonl")
    ask(*many)
    first, second, third = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert UNUSED in first["warnings"]
    assert UNUSED not in second["warnings"]
    assert "key 'history' holds a text" in third["error"]
    turns.write_text("[]")
    assert "--history would be ignored beside --jsonl" in refused(capsys, *many, "--history", turns)
