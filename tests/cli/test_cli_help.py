"""Help is quick, and teaches; config files are found by path and by short name."""

import subprocess
import sys
import time

import pytest
import yaml

from medrag_lightning import __version__
from medrag_lightning.cli import config_files
from medrag_lightning.cli.help import VERB_HELP, help_text


def test_help_imports_nothing_heavy():
    code = (
        "import sys\nfrom medrag_lightning.cli import main\nmain(['--help'])\nmain(['fit', '--help'])\nmain([])\n"
        "heavy = {'torch', 'lightning', 'transformers', 'jsonargparse', 'faiss', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("python -m medrag_lightning fit\n") == 2


def test_help_answers_in_half_a_second():
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", "medrag_lightning", "--help"], capture_output=True, check=True)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.5, seconds


def test_help_names_what_works_and_nothing_else(run):
    text = help_text()
    for word in (*VERB_HELP, "--version", "--ckpt_path last", "runs/", "data/vqa_rad", "75", "130"):
        assert word in text
    assert run("--version") == (0, "")
    assert run.out == f"medrag_lightning {__version__}\n"
    for verb in VERB_HELP:
        assert run(verb, "--help") == (0, "")
        assert run.out.startswith(f"usage: python -m medrag_lightning {verb}")


def test_all_settings_can_be_listed(run):
    code, _ = run("fit", "-c", "toy.yaml", "--help_all")
    assert code == 0
    assert "--trainer.gradient_clip_val" in run.out


def test_merged_configuration_can_be_printed(run, toy):
    assert run("fit", "-c", "toy.yaml", "--trainer.max_epochs", "9", "--print_config")[0] == 0
    config = yaml.safe_load(run.out)
    assert config["trainer"]["max_epochs"] == 9
    assert config["model"]["class_path"] == "toy_parts.Stage"
    assert not (toy / "runs").exists()


def test_every_shipped_file_is_found_by_each_of_its_names(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    folder = config_files.config_folder()
    for short in config_files.short_names():
        for name in (short, f"{short}.yaml", f"configs/{short}.yaml", str(folder / f"{short}.yaml")):
            assert config_files.find_config(name) == folder / f"{short}.yaml"
    with pytest.raises(ValueError, match=r"did you mean data/vqa_rad"):
        config_files.find_config("vqa_rad")


def test_a_file_here_goes_before_a_shipped_one(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "base.yaml").write_text("trainer: {}\n")
    assert config_files.find_config("base.yaml").resolve() == tmp_path / "base.yaml"


def test_a_stage_that_no_file_names_is_the_default_one():
    def stems(files):
        return [file.path.stem for file in files]

    assert stems(config_files.read_all(["data/vqa_rad"])) == ["base", "reader_raft", "tiny", "vqa_rad"]
    assert stems(config_files.read_all(["data/vqa_rad"], model_given=True)) == ["base", "vqa_rad"]
    assert stems(config_files.read_all(["data/vqa_rad", "readers/qwen2_vl"])) == ["base", "reader_raft", "vqa_rad", "qwen2_vl"]
    named = config_files.read_all(["stages/reader_raft", "data/vqa_rad"])
    assert stems(named) == ["base", "reader_raft", "vqa_rad"]
    assert stems(config_files.read_all([]))[:2] == ["base", "reader_raft"]


def test_config_arguments_are_split_from_the_others():
    words = ["-c", "a", "--trainer.max_epochs", "3", "--config=b", "--config", "c"]
    assert config_files.split_arguments(words) == (["a", "b", "c"], ["--trainer.max_epochs", "3"])
