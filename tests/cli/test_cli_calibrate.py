"""The verb `calibrate` on a scored mini-hospital: file, plot, table, JSON; mistakes told before anything is read."""

from __future__ import annotations

import json

import numpy as np
import pytest
import yaml

from medrag_lightning.artifacts import write_manifest
from medrag_lightning.calibration import Calibration
from medrag_lightning.cli import main
from medrag_lightning.data.minihospital import MiniHospital
from medrag_lightning.data.module import MedragData
from medrag_lightning.models.tiny_dual_encoder import TinyDualEncoder
from medrag_lightning.records import AnswerType, Condition, Score
from medrag_lightning.retrieval.source import LiveSearch
from medrag_lightning.score_files import IDENTITY, documents_fingerprint, merge, query_fingerprint, to_table, write_shard

KS = (0, 1, 2)
RIGHT = {0: 0.4, 1: 0.9, 2: 0.95}


def score_by_hand(data, folder):
    """A reader that is right as often as `RIGHT` says, and surer where it is; no reader runs."""
    rng, rows, sums = np.random.default_rng(0), [], {}
    for split in ("val", "test"):
        for query in data.split_queries(split):
            if query.answer_type is not AnswerType.CLOSED:
                continue
            sums[query.id] = query_fingerprint(query)
            found = [candidate.id for candidate in data.world().retrieved[query.id].candidates]
            for k in KS:
                right = rng.random() < RIGHT[k]
                logp = np.log(np.full(len(query.choices), 0.1 / len(query.choices)))
                chosen = query.gold_index if right else (query.gold_index + 1) % len(query.choices)
                logp[chosen] = np.log(0.9 if right else rng.uniform(0.3, 0.9))
                counts = (1,) * len(query.choices)
                condition = Condition(tuple(found[:k]))
                rows.append(Score(query.id, condition, query.choices, tuple(logp.tolist()), counts, query.gold_index))
    folder.mkdir()
    identity = {"reader": "r", "template": "t", "corpus": documents_fingerprint(data.documents())}
    write_manifest(folder / IDENTITY, identity)
    write_shard(folder, 0, 0, to_table(rows, sums))
    merge(folder)


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """data.yaml and a table, in the current folder."""
    place = tmp_path_factory.mktemp("calibrate")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        world = MiniHospital(seed=3, size=400)
        data = MedragData([world], [world], LiveSearch(TinyDualEncoder(), {"image_to_image": 2}))
        data.prepare_data()
        data.setup("predict")
        score_by_hand(data, place / "table")
    hospital = {"class_path": "medrag_lightning.data.minihospital.MiniHospital", "init_args": {"seed": 3, "size": 400}}
    encoder = {"class_path": "medrag_lightning.models.tiny_dual_encoder.TinyDualEncoder"}
    search = {"encoder": encoder, "per_channel": {"image_to_image": 2}}
    source = {"class_path": "medrag_lightning.retrieval.source.LiveSearch", "init_args": search}
    told = {"tables": [hospital], "corpus": [hospital], "source": source}
    (place / "data.yaml").write_text(
        yaml.safe_dump({"data": {"class_path": "medrag_lightning.data.module.MedragData", "init_args": told}})
    )
    return place


@pytest.fixture(autouse=True)
def here(scored, monkeypatch):
    monkeypatch.chdir(scored)


def asked(*more):
    return ["calibrate", "-c", "data.yaml", "--table", "table", "--alpha", "0.3", "--delta", "0.1", *more]


def failed(capsys, *arguments):
    with pytest.raises(SystemExit) as ending:
        main(list(arguments))
    assert ending.value.code == 2
    return capsys.readouterr().err


def test_a_number_is_chosen_and_kept(scored, capsys):
    main(asked("--ks", "0", "1", "2", "--split", "test", "--output", "out/k.json"))
    out = capsys.readouterr().out
    told = json.loads(out.splitlines()[-1])
    made = Calibration.read("out/k.json")
    assert (told["guaranteed"], told["policy"]["k"], told["unit"]) == (True, made.policy.k, "patients")
    assert made.policy.k in (1, 2)
    assert f"n = {told['units']} patients ({told['questions']} questions), risk error, alpha 0.3, delta 0.1" in out
    assert "exchangeable" in out
    assert "with 2 candidates" in out
    assert (scored / "out/k.png").read_bytes().startswith(b"\x89PNG")
    assert made.told["split"] == "test"
    before = (scored / "out/k.json").read_bytes()
    assert "out/k.json is there already" in failed(capsys, *asked("--ks", "1", "--output", "out/k.json"))
    main(asked("--ks", "0", "1", "2", "--split", "test", "--output", "out/k.json", "--overwrite", "--plot", "none"))
    assert (scored / "out/k.json").read_bytes() == before, "the same each time"


@pytest.mark.slow
def test_the_joint_choice_and_too_little_to_show_anything(scored, capsys):
    grid = ("--thresholds", "0", "0.6", "0.8", "--without_from", "0.85", "--procedure", "learned_sequence")
    main(asked("--ks", "1", "2", "--split", "test", *grid, "--output", "joint.json"))
    out = capsys.readouterr().out
    assert "further patients said in which order" in out
    assert "coverage" in out
    assert json.loads(out.splitlines()[-1])["guaranteed"]
    main([*asked("--ks", "0", "--split", "test", "--output", "none.json", "--plot", "none")])
    assert "NO GUARANTEE" in capsys.readouterr().out
    main(asked("--ks", "0", "--split", "test", "--output", "all.json", "--plot", "none", "--fallback", "abstain"))
    assert "abstains from everything" in capsys.readouterr().out
    assert Calibration.read("all.json").policy is None


def test_mistakes_are_told(capsys):
    assert "--ks, --alpha, --delta, --output missing; what risk is tolerable" in failed(capsys, "calibrate", "-c", "data.yaml")
    assert "calibrate needs -c" in failed(capsys, "calibrate", "--ks", "1")
    out = ("--output", "x.json")
    assert "alpha must lie" in failed(capsys, *asked("--ks", "1", "--alpha", "2", *out))
    assert "no test question has 5 candidates" in failed(capsys, *asked("--ks", "5", "--split", "test", *out))
    assert "--fusion would be ignored" in failed(capsys, *asked("--ks", "1", "--fusion", "f.yaml", *out))
    assert "--ordering_share would be ignored" in failed(capsys, *asked("--ks", "1", "--ordering_share", "0.5", *out))
    assert "--kss" in failed(capsys, *asked("--ks", "1", "--kss", "2", *out))


def test_lists_and_flags_are_taken_as_a_recipe_writes_them(tmp_path):
    from medrag_lightning.cli.calibrate_options import parse

    (tmp_path / "c.json").write_text("{}")
    words = ["-c", "d.yaml", "--ks=[0, 1, 2]", "--thresholds=[0, 0.5]", "--without_from=[0.9]", "--alpha=0.3", "--delta=0.1"]
    asked, rest = parse([*words, f"--output={tmp_path / 'c.json'}", "--overwrite=true"])
    assert (asked.settings.ks, asked.settings.thresholds, asked.settings.without_from) == ((0, 1, 2), (0.0, 0.5), (None, 0.9))
    assert rest == ["-c", "d.yaml"]
    with pytest.raises(ValueError, match=r"--ks: invalid whole number value: '1\.5'"):
        parse(["-c", "d.yaml", "--ks", "1.5"])
    with pytest.raises(ValueError, match="is there already"):
        parse([*words, f"--output={tmp_path / 'c.json'}", "--overwrite=false"])
