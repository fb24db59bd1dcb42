"""Which folder a run gets."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from medrag_lightning.cli.run_folder import (
    CHILD_VARIABLE,
    Request,
    choose_folder,
    last_checkpoint,
    new_folder,
    newest_run,
)


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def checkpoint(folder, name="last.ckpt"):
    path = Path(folder) / "checkpoints" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("")
    return path


def test_numbers_go_up_and_names_keep_apart():
    assert [str(new_folder("a")) for _ in range(3)] == ["runs/a-001", "runs/a-002", "runs/a-003"]
    assert str(new_folder("a-b")) == "runs/a-b-001"
    Path("runs/a-1000").mkdir()
    assert str(new_folder("a")) == "runs/a-1001"


def test_runs_started_at_once_never_share_a_folder():
    with ThreadPoolExecutor(8) as pool:
        folders = list(pool.map(lambda _: new_folder("a"), range(40)))
    assert len(set(folders)) == 40


def test_newest_run_is_the_last_number_with_a_checkpoint():
    for number in ("001", "002", "010"):
        checkpoint(f"runs/a-{number}")
    new_folder("a")
    checkpoint("runs/a-b-099")
    assert newest_run("a") == Path("runs/a-010")
    with pytest.raises(ValueError, match="no run named c-NNN"):
        newest_run("c")


def test_a_child_takes_its_parents_folder_and_a_first_process_does_not():
    request = Request("fit", "a", None, None)
    assert choose_folder(request, {"LOCAL_RANK": "1", CHILD_VARIABLE: "given"}) == Path("given")
    assert choose_folder(request, {"LOCAL_RANK": "0", CHILD_VARIABLE: "stale"}) == Path("runs/a-001")
    assert choose_folder(request, {CHILD_VARIABLE: "stale"}) == Path("runs/a-002")


@pytest.mark.parametrize("environment", [{"TORCHELASTIC_RUN_ID": "x", "LOCAL_RANK": "0"}, {"SLURM_NTASKS": "4"}])
def test_processes_started_elsewhere_need_a_folder(environment):
    with pytest.raises(ValueError, match="torchrun or SLURM"):
        choose_folder(Request("fit", "a", None, None), environment)
    assert choose_folder(Request("fit", "a", Path("b"), None), environment) == Path("b")


def test_a_checkpoint_file_of_a_run_goes_on_in_that_run():
    path = checkpoint("runs/a-001")
    assert choose_folder(Request("test", "b", None, str(path)), {}) == Path("runs/a-001")
    loose = Path("loose.ckpt")
    loose.write_text("")
    assert choose_folder(Request("test", "b", None, str(loose)), {}) == Path("runs/b-001")


def test_last_checkpoint_is_the_newest_file_where_there_is_no_last():
    old = checkpoint("run", "a.ckpt")
    new = checkpoint("run", "b.ckpt")
    old.touch()
    assert last_checkpoint(Path("run")) == (old if old.stat().st_mtime_ns > new.stat().st_mtime_ns else new)
    last = checkpoint("run")
    new.touch()
    assert last_checkpoint(Path("run")) == last


def test_a_folder_with_results_is_taken_and_one_with_a_config_only_is_not():
    root = Path("mine")
    root.mkdir()
    (root / "config.yaml").write_text("")
    request = Request("fit", "a", root, None)
    assert choose_folder(request, {}) == root
    checkpoint(root)
    with pytest.raises(ValueError, match=r"mine already holds a run \(checkpoints/last\.ckpt\)"):
        choose_folder(request, {})
    assert choose_folder(Request("fit", "a", root, "last"), {}) == root
    assert choose_folder(Request("test", "a", root, None), {}) == root
