"""Preference pairs on disk: what is written is read, the same pairs make the same bytes, what does not fit is refused."""

from dataclasses import replace

import pytest

from medrag_lightning import preference_files
from medrag_lightning.artifacts import read_manifest, write_manifest
from medrag_lightning.preference_files import (
    MANIFEST,
    PAIRS,
    STATISTICS,
    check_preferences,
    pair_id,
    read_preferences,
    write_preferences,
)
from medrag_lightning.records import Condition, ImageShown, Knowledge, PairKind, Preference, PreferenceSide, Split

SHOWN = Condition(("d1", "d2"))
PAIRS_OF = {
    Split.TRAIN: [
        Preference(
            "a", "q0", PairKind.CROSS_MODALITY, None,
            PreferenceSide(SHOWN, "yes", -0.1 / 3, 2),
            PreferenceSide(Condition(("d1", "d2"), ImageShown.OTHER, "d7"), "yes", -1e-17, 2),
        ),
        Preference(
            "b", "q0", PairKind.UTILISATION, Knowledge.REPORTS,
            PreferenceSide(SHOWN, "naïve «dash»"), PreferenceSide(SHOWN, ""), 3.0,
        ),
        Preference(
            "c", "q1", PairKind.ROBUSTNESS, Knowledge.BOTH, PreferenceSide(Condition(), "yes"),
            PreferenceSide(Condition((), ImageShown.CORRUPTED, corruption="replace"), "yes"),
        ),
    ],
    Split.VAL: [],
}  # fmt: skip
IDENTITY = {"table": {"reader": "r" * 64, "precision": "32-true"}, "plan": {"rules": "hkpt_v2", "kinds": None}, "seed": 3}


def test_what_is_written_is_read(tmp_path):
    write_preferences(tmp_path / "one", PAIRS_OF, IDENTITY, {"queries": 2})
    found = read_preferences(tmp_path / "one")
    assert found.pairs == PAIRS_OF
    assert (found.identity, found.statistics) == (IDENTITY, {"queries": 2})
    write_preferences(tmp_path / "two", PAIRS_OF, IDENTITY, {"queries": 2})
    write_preferences(tmp_path / "two", PAIRS_OF, IDENTITY, {"queries": 2})  # as two processes would
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes(), path
    assert {path.name for path in (tmp_path / "two").iterdir()} == {MANIFEST, PAIRS, STATISTICS}


def test_pairs_of_something_else_are_refused_and_stay(tmp_path):
    write_preferences(tmp_path, PAIRS_OF, IDENTITY, {})
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    other = {**IDENTITY, "plan": {"rules": "rag_pt", "kinds": None}, "seed": 4}
    wanted = r"plan\.rules is hkpt_v2 there, rag_pt here; seed is 3 there, 4 here.*preference\.folder"
    for refuses in (lambda: check_preferences(tmp_path, other), lambda: write_preferences(tmp_path, {}, other, {})):
        with pytest.raises(ValueError, match=wanted):
            refuses()
    assert before == {path: path.read_bytes() for path in tmp_path.iterdir()}
    check_preferences(tmp_path, {"seed": 3})  # what is not told is not compared
    with pytest.raises(ValueError, match=r"table\.precision is 32-true there, None here"):
        check_preferences(tmp_path, {"table": {"reader": "r" * 64}})


@pytest.mark.parametrize("name", [PAIRS, STATISTICS])
def test_damaged_files_are_refused(tmp_path, name):
    write_preferences(tmp_path, PAIRS_OF, IDENTITY, {"queries": 2})
    content = bytearray((tmp_path / name).read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{name} is damaged"):
        read_preferences(tmp_path)


def test_two_runs_that_write_different_pairs_at_once_are_found_out(tmp_path, monkeypatch):
    other = {Split.TRAIN: PAIRS_OF[Split.TRAIN][:1], Split.VAL: []}
    write = preference_files.write_bytes

    def interrupted(path, data):
        write(path, data)
        if path.name == PAIRS:
            monkeypatch.setattr(preference_files, "write_bytes", write)
            write_preferences(tmp_path, other, {**IDENTITY, "seed": 4}, {})
            (tmp_path / MANIFEST).unlink()  # not yet written

    monkeypatch.setattr(preference_files, "write_bytes", interrupted)
    write_preferences(tmp_path, PAIRS_OF, IDENTITY, {})
    with pytest.raises(ValueError, match=f"{PAIRS} is damaged"):
        read_preferences(tmp_path)


def test_unfinished_missing_and_foreign_sets_are_refused(tmp_path):
    with pytest.raises(ValueError, match="do not exist: build them with: python -m medrag_lightning pairs"):
        read_preferences(tmp_path / "none")
    write_preferences(tmp_path, PAIRS_OF, IDENTITY, {})
    manifest = read_manifest(tmp_path / MANIFEST, "")
    write_manifest(tmp_path / MANIFEST, {**manifest, "schema": 99})
    with pytest.raises(ValueError, match="schema 99, this version reads 1"):
        read_preferences(tmp_path)
    (tmp_path / MANIFEST).unlink()
    with pytest.raises(ValueError, match="are not finished"):
        read_preferences(tmp_path)
    twice = {Split.TRAIN: [PAIRS_OF[Split.TRAIN][0], replace(PAIRS_OF[Split.TRAIN][1], id="a")]}
    with pytest.raises(ValueError, match="have one id"):
        write_preferences(tmp_path / "twice", twice, IDENTITY, {})


def test_ids_tell_pairs_apart_and_equal_pairs_share_one():
    sides = [(SHOWN, "yes"), (Condition(), "yes")]
    known = [
        pair_id("q", PairKind.ROBUSTNESS, Knowledge.BOTH, sides),
        pair_id("q2", PairKind.ROBUSTNESS, Knowledge.BOTH, sides),
        pair_id("q", PairKind.UTILISATION, Knowledge.BOTH, sides),
        pair_id("q", PairKind.ROBUSTNESS, None, sides),
        pair_id("q", PairKind.ROBUSTNESS, Knowledge.BOTH, sides[::-1]),
    ]
    assert len(set(known)) == len(known)
    assert pair_id("q", PairKind.ROBUSTNESS, Knowledge.BOTH, [(Condition(("d1", "d2")), "yes"), sides[1]]) == known[0]
