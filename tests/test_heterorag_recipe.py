"""configs/recipes/heterorag.yaml and heterorag_compared.yaml: the second goes on from the first, and both from raw files."""

import re
from pathlib import Path

import pytest
import yaml

from medrag_lightning.artifacts import read_json
from medrag_lightning.cli import main
from medrag_lightning.cli.recipe import read_recipe
from medrag_lightning.cli.recipe_plan import plan
from medrag_lightning.data.minihospital_images import MODALITIES
from medrag_lightning.preference_files import read_preferences
from medrag_lightning.records import PairKind, Split
from medrag_lightning.search_files import read_searches

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
HOSPITAL = {"seed": 1, "size": 384, "reports": "full", "texts": True, "corpora": "five"}
READER = "model.init_args.reader.init_args.backbone"
SMALL = {"hidden": 96, "layers": 2, "heads": 4, "vision_hidden": 64, "vision_layers": 2}
GENERATING = ("generator_sft", "search", "search_sft", "generator_base", "search_dpo_alone")
TUNING = ("generator_dpo", "generator_dpo_alone", "tune", "mmed_tune", "rule_tune", "sft", "sft_bare", "factmm_sft")
TESTED = (
    "before", "sft", "sft_bare", "question", "clip", "search_sft", "search_dpo_alone", "factmm", "mmed", "rule", ""
)  # fmt: skip
UNTUNED = ("generator_sft", "generator_base", "search_sft", "reader", "score", "test_before", "mmed_score", "rule_score")


def test_the_longer_recipe_begins_with_the_steps_of_the_shorter():
    """So that finished steps of a run of `heterorag` are not run again in its folder."""
    short, long = plan(read_recipe("heterorag")), plan(read_recipe("heterorag_compared"))
    assert [one.fingerprint for one in long[: len(short)]] == [one.fingerprint for one in short]
    assert len(long) > len(short)


def test_every_modality_of_the_hospital_has_a_retriever():
    """Else the least similar image cannot be told, and evidence of that modality is never found."""
    for name in ("heterorag", "heterorag_compared"):
        told = read_recipe(name).variables
        assert {told[one] for one in ("first", "second", "third", "fourth")} == set(MODALITIES)


def test_every_variable_is_used_and_every_fit_is_tested_or_searched_with():
    recipe = read_recipe("heterorag_compared")
    text = recipe.path.read_text()
    assert [name for name in recipe.variables if f"${{{name}}}" not in text] == []
    used = set(re.findall(r"\$\{steps\.(\w+)\.best\}", text))
    assert used == {step.name for step in recipe.steps if step.verb == "fit"}


def test_baselines_search_reports_alone_each_in_its_way():
    planned = {one.step.name: one for one in plan(read_recipe("heterorag_compared"))}
    sources = {}
    for name in ("test_factmm", "test_mmed", "test_rule", "factmm_sft", "mmed_tune", "rule_tune", "mmed_score", "rule_score"):
        arguments = planned[name].arguments
        keys = [key for key in arguments if ".source." in key]
        assert keys[-1] == "data.init_args.source.init_args.parts", "what comes later on the command line counts"
        parts = yaml.safe_load(arguments[keys[-1]])
        assert list(parts) == ["reports"]
        assert arguments["data.init_args.searches"] == "null"
        sources[name] = arguments[keys[-1]]
    assert sources["test_mmed"] == sources["mmed_tune"] == sources["mmed_score"]
    assert sources["test_rule"] == sources["rule_tune"] == sources["rule_score"]
    assert sources["test_factmm"] == sources["factmm_sft"]
    assert len(set(sources.values())) == 3


def small_world(folder: Path) -> tuple[str, str]:
    """A data config of a small hospital, and its expert."""
    told = yaml.safe_load((CONFIGS / "data" / "minihospital_five.yaml").read_text())
    arguments = told["data"]["init_args"]
    tables = [{"class_path": "medrag_lightning.data.minihospital.MiniHospital", "init_args": HOSPITAL}]
    arguments |= {"tables": tables, "corpus": tables, "regimes": ["retrieved", "none"]}
    (folder / "small.yaml").write_text(yaml.safe_dump(told))
    expert = {
        "class_path": "medrag_lightning.data.minihospital_expert.MiniHospitalExpert",
        "init_args": {"hospital": tables[0]},
    }
    return "small.yaml", yaml.safe_dump(expert, default_flow_style=True).strip()


def shrunk() -> list[str]:
    """Options that leave a moment of each step."""
    steps = [
        ("first", 2),
        ("second", 2),
        ("third", 2),
        ("fourth", 2),
        ("mixed", 2),
        ("factual", 2),
        *((name, 1) for name in TUNING),
    ]
    asked = [f"--set={name}.trainer.val_check_interval={every}" for name, every in steps]
    asked += [f"--set={name}.trainer.check_val_every_n_epoch=null" for name, _ in steps]
    asked += [f"--set={name}.model.init_args.max_new_tokens=8" for name in GENERATING]
    asked += ["--set=reader.trainer.max_epochs=12", "--set=reader.trainer.check_val_every_n_epoch=6", "--noise_queries", "4"]
    tests = [f"test_{name}".rstrip("_") for name in TESTED]
    for key, value in SMALL.items():
        asked += [f"--set={name}.{READER}.init_args.{key}={value}" for name in UNTUNED]
        tuned = (*TUNING, "pairs", "search", "search_dpo_alone", *tests)
        asked += [f"--set={name}.{READER}.init_args.backbone.init_args.{key}={value}" for name in tuned if name not in UNTUNED]
    updates = ("steps_of_encoder", "steps_of_mixed", "updates", "generator_updates", "queries")
    return [*asked, *(word for name in updates for word in (f"--{name}", "2")), "--generator_epochs", "1"]


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_heterorag_and_its_baselines_run_from_raw_files_to_their_tests(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data, expert = small_world(tmp_path)
    main(["run", "heterorag_compared", "--data", data, "--expert", expert, *shrunk()])
    place = Path("runs/heterorag_compared")
    for name in TESTED:
        assert (place / f"test_{name}".rstrip("_") / "knowledge.json").is_file()
    systems = {row["system"] for row in read_json(place / "test" / "results.json")["rows"]}
    assert {"without reports", "without documents", "without graph"} <= systems
    for searches in ("searches", "searches_sft", "searches_dpo_alone"):
        assert len(read_searches(place / searches).rows) > HOSPITAL["size"]
    kinds = {pair.kind for pair in read_preferences(place / "rule_tune" / "pairs").pairs[Split.TRAIN]}
    assert kinds == {PairKind.ROBUSTNESS}
