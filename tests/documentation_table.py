"""How each documented command is run small: its own words, what is added, what stands for what, and the test that takes it."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from documentation import PROGRAM

READER = "--model.init_args.reader.init_args.backbone.init_args"
SMALL = " ".join(
    f"{READER}.{key}={value}"
    for key, value in {
        "hidden": 32,
        "layers": 1,
        "heads": 2,
        "vision_hidden": 32,
        "vision_layers": 1,
        "vocabulary": 400,
    }.items()
)
ONE_STEP = "--trainer.fast_dev_run=1 --data.init_args.max_train_queries=8 --data.init_args.max_eval_queries=4"
WEIGHTS = f"{READER}.name=WEIGHTS"  # a folder of random weights of the family, in place of the download
HUB = "WEIGHTS: a folder of random weights of the same family, so that nothing is downloaded"


@dataclass(frozen=True, slots=True)
class How:
    """How one documented thing is run.

    Attributes:
        text: as documented (``yaml`` and ``python`` stand for a block, which is read from the documentation).
        test: who runs it: a test of test_documented_commands, or a file of tests that does.
        add: further arguments, which make it small.
        instead: documented words and what stands for them.
        why: why something stands for something.
        leaves: a file or folder that must be there afterwards.
        says: what must stand in the output.
        key: of an option or setting, what it sets, where the words do not say it.
    """

    text: str
    test: str
    add: str = ""
    instead: tuple[tuple[str, str], ...] = ()
    why: str = ""
    leaves: str = ""
    says: str = ""
    key: str = ""

    def words(self, **places: object) -> list[str]:
        """The arguments of ``main``. `places` are the names in capitals, such as WEIGHTS, and what stands for them."""
        words = shlex.split(self.text.removeprefix("srun --kill-on-bad-exit=1 ").removeprefix(PROGRAM))
        for said, used in self.instead:
            assert any(said in word for word in words), f"{said} is not in {self.text}"
            words = [word.replace(said, used) for word in words]
        words += shlex.split(self.add)
        for name, place in places.items():
            words = [word.replace(name, str(place)) for word in words]
        return words


def option(text: str, key: str = "") -> How:
    """An option or setting that a configuration takes."""
    return How(text, "options", key=key)


def bench(name: str) -> How:
    """A script whose smoke test runs it."""
    return How(name, f"scripts/test_bench_{name.removeprefix('python ').rsplit('/', 1)[-1].removesuffix('.py')}.py")


OWN = "own data"
README: dict[str, list[How]] = {
    "Two commands": [
        How("bash scripts/quickstart.sh", "scripts", says="-m medrag_lightning fit"),
        How("bash scripts/test.sh", "scripts", says="-m pytest"),
    ],
    "Your own data in 25 lines": [
        How("yaml", OWN),
        How("export MEDRAG_DATA=/path/to/data", OWN),
        How(f"{PROGRAM}check -c stages/reader_raft -c mine.yaml", OWN, add=SMALL, says="verdict"),
        How(f"{PROGRAM}fit -c stages/reader_raft -c mine.yaml", OWN, add=f"{SMALL} --trainer.max_epochs=2", says="retrieved"),
        How(
            f"{PROGRAM}fit -c stages/reader_raft -c mine.yaml -c readers/qwen2_vl --trainer.precision bf16-mixed",
            OWN, add=f"{WEIGHTS} --trainer.max_epochs=2", why=HUB, says="retrieved",
        ),
        How(f"{PROGRAM}report runs/qwen2_vl-001", OWN, leaves="runs/qwen2_vl-001/report.html"),
        How(f"{PROGRAM}export runs/qwen2_vl-001 --ckpt_path best --output bundle", OWN, leaves="bundle", says="answered alike"),
        How(f"{PROGRAM}verify bundle", OWN, says="bundle: whole and unchanged"),
        How(
            f'{PROGRAM}answer bundle --image film.png --question "is there an effusion?" --choices yes,no',
            OWN, says="answer: (yes|no)",
        ),
        option("--data.init_args.leaks warn"),
        How("--only plan", "check options"),
        How(
            "check rows.jsonl --only data", OWN, says="0 errors",
            instead=(("rows.jsonl", "data/mine/questions.jsonl"),), why="some rows",
        ),
    ],
    "The recipes": [How(name, "recipe options") for name in ("--data", "--reader", "--folder", "--devices")],
    "All of JOMED in one command": [
        How(f"{PROGRAM}run jomed", "jomed", leaves="runs/jomed/test/results.json"),
        How(f"{PROGRAM}run jomed --data data/retinamnist --reader readers/qwen2_vl --candidates 50 --devices 4", "real data"),
        option("-c stages/retriever_kl_jomed"),
        option("fusion.mode: logit_mixture", "model.init_args.fusion.mode"),
    ],
    "All of MR-RAG in one command": [
        How(f"{PROGRAM}run mrrag", "test_configs.py::test_the_recipe_mrrag_runs_from_raw_files_to_its_curves"),
        How(
            f"{PROGRAM}run mrrag --data data/retinamnist --reader readers/qwen2_vl --layers critical "
            "--layers_file '${steps.calibrate}/steering_layers.yaml' --rows question", "real data",
        ),
    ],
    "Preference tuning on both sides' own inputs: HKPT, RAG-PT, KB-PT": [
        How(f"{PROGRAM}run hkpt", "test_configs.py::test_the_recipe_hkpt_runs_from_raw_files_to_its_metrics"),
        How(f"{PROGRAM}run hkpt_compared", "test_configs.py::test_recipes_can_be_planned"),  # the steps of hkpt, four times
        How(
            f"{PROGRAM}run hkpt --data data/vqa_rad_texts --reader readers/qwen2_vl --tuned readers/qwen2_vl_tuned --lr 2e-5",
            "real data",
        ),
        How("pairs --trl FOLDER", "stages/test_preference_pairs.py"),
        bench("scripts/bench/preference_step.py"),
        How("test -c ... --ckpt_path TUNED.ckpt", "test_configs.py::test_the_recipe_hkpt_runs_from_raw_files_to_its_metrics"),
    ],
    "All of HeteroRAG in one command": [
        How(f"{PROGRAM}run heterorag", "test_configs.py::test_recipes_can_be_planned"),
        How(f"{PROGRAM}run heterorag_compared --folder runs/heterorag", "test_configs.py::test_recipes_can_be_planned"),
        How(f"{PROGRAM}run query_generator", "test_query_generator_config.py"),
        How(f"{PROGRAM}run modality_retrievers", "test_configs.py::test_recipes_can_be_planned"),
        option("data.knowledge.leave_out: [each]", "data.init_args.knowledge.leave_out"),
        How("export --generator RUN", "handoff/test_generator_options.py"),
        How("--without_generator", "handoff/test_generator_options.py"),
    ],
    "MIRA: rethink and rearrange, and as many candidates as can be vouched for": [
        How(f"{PROGRAM}run mira", "test_configs.py::test_recipes_can_be_planned"),
        How(f"{PROGRAM}run calibrated --alpha 0.25", "test_configs.py::test_recipes_can_be_planned"),
        How(f"{PROGRAM}run joint", "test_configs.py::test_recipes_can_be_planned"),
        How(f"{PROGRAM}run full", "test_configs.py::test_recipes_can_be_planned"),
        How("export --calibration FILE", "handoff/test_bundle_calibrated.py"),
    ],
    "Hand-off": [
        How(
            f"{PROGRAM}export runs/jomed/test --ckpt_path runs/jomed/reader/checkpoints/last.ckpt --output bundle --overwrite",
            "jomed", leaves="bundle", says="answered alike",
        ),
        How(f"{PROGRAM}verify bundle", "jomed", says="bundle: whole and unchanged"),
        How(f"{PROGRAM}answer bundle --jsonl questions.jsonl --output answers.jsonl", "jomed", leaves="answers.jsonl"),
        How("python", "jomed", says="answer: (one|two|three)"),
        How("--onnx", "handoff/test_bundle_encoders.py"),
        How("--corpus pointer", "handed on", leaves="other-corpus"),
        How("pip install 'medrag-lightning[runtime]'", "scripts/test_clean_runtime.py"),
        How("--abstain report", "handoff/test_bundle_cli.py"),
        How("python", "jomed", says="answer: (one|two|three)"),
    ],
    "A report": [How(f"{PROGRAM}report runs/jomed", "jomed", leaves="runs/jomed/report.html")],
    "Changing one thing": [
        option("-c"),
        How(f"{PROGRAM}fit -c mine.yaml --print_config", "afterwards", says="optimizer:"),
        option("-c readers/qwen2_vl"),
        option(f"{READER}.name FOLDER"),
        option("--model.init_args.reader.init_args.adapter null --model.init_args.reader.init_args.freeze vision"),
        option("--model.init_args.optimizer.init_args.lr 1e-5"),
        option("--data.init_args.source.init_args.per_channel '{image_to_image: 4}'"),
        option("-c stages/reader_raft_all"),
        option("-c stages/reader_raft"),
    ],
    "Stopping and going on": [
        option("--ckpt_path last"),
        How(
            f"{PROGRAM}fit -c runs/mine-001/config.yaml --ckpt_path last",
            "afterwards", add="--trainer.max_epochs=3", says="epoch 3",
        ),
        option("--model.init_args.init_from runs/mine-001/checkpoints/last.ckpt"),
    ],
    "Several processes": [
        How(
            f"{PROGRAM}fit -c stages/reader_raft -c mine.yaml --trainer.devices 4 --trainer.strategy ddp",
            "several processes", add=f"{SMALL} --trainer.accelerator=cpu --trainer.max_epochs=1 --trainer.devices=2",
            why="2 processes on CPU for 4 devices", says="retrieved",
        ),
    ],
    "Readers": [
        option("evidence: one_per_prompt", "model.init_args.evidence"),
        option("evidence: all_in_one_prompt", "model.init_args.evidence"),
    ],
    "Retrievers": [
        How("yaml", "afterwards", says="retrieved"),
        option("--data.init_args.cache_folder runs/clip"),
        option("-c retrievers/clip"),
        How(
            f"{PROGRAM}fit -c mine.yaml -c stages/retriever_contrastive",
            "afterwards", add="--trainer.max_epochs=1", says="recall@1",
        ),
        option("index.kind: bf16", "data.init_args.source.init_args.index.kind"),
    ],
    "Texts, graphs, several corpora": [
        How(f"{PROGRAM}reranker -c data/pubmedqa", "test_configs.py"),
        option("-c stages/reader_raft_reports"),
    ],
    "Embedding a large corpus": [
        How(
            f"{PROGRAM}predict -c mine.yaml -c stages/embed --trainer.devices 4 --trainer.strategy ddp",
            "several processes", add="--trainer.accelerator=cpu --trainer.devices=2 --data.init_args.cache_folder=runs/large",
            why="2 processes on CPU for 4 devices; a store of that corpus is there already",
            leaves="runs/large",
        ),
        How(f"{PROGRAM}index --store FOLDER --kind hnsw", "afterwards", says="hnsw"),
    ],
    "Safety, and limits": [
        bench("python scripts/bench/security.py"),
        option("template.delimit_evidence: true", "model.init_args.template.delimit_evidence"),
        bench("scripts/bench/injections.py"),
        bench("python scripts/bench/drills.py"),
    ],
    "For developers": [
        How("bash scripts/test.sh", "scripts", says="-m pytest"),
        How("bash scripts/test.sh -m slow", "scripts", says="-m pytest -n 2 --dist loadfile -m slow"),
        How("bash scripts/coverage.sh", "scripts", says="-m coverage report"),
        *map(bench, ("scripts/bench/reader_step.py", "scoring.py", "distil_epoch.py", "preference_step.py", "grad_cache.py")),
        *map(bench, ("search.py", "steering.py", "fusion.py", "check.py", "leaks.py", "plan.py", "report.py", "bundle.py")),
    ],
}  # fmt: skip

CONFIGS: dict[str, list[How]] = {
    "How configs compose": [
        How(
            f"{PROGRAM}fit -c data/vqa_rad -c readers/qwen2_vl -c mine.yaml --trainer.max_epochs 3",
            "afterwards", add=f"{WEIGHTS} {ONE_STEP} --data.init_args.pair_tables=null",
            why=f"{HUB}; mine.yaml replaces the tables of vqa_rad, but for its pairs",
        ),
        *map(option, ("-c", "--KEY VALUE", "--model.init_args.optimizer.init_args.lr 1e-4")),
        *map(option, ("--trainer.default_root_dir", "--print_config")),
        How(
            "test -c runs/vqa_rad-001/config.yaml --ckpt_path best", "afterwards",
            instead=(("runs/vqa_rad-001", "runs/mine-001"),), why="a run that is there", leaves="runs/mine-001/results.json",
        ),
        How("yaml", "yaml blocks", says="TensorBoardLogger"),
    ],
    "Recipes": [
        How(f"{PROGRAM}run jomed --data data/retinamnist --reader readers/qwen2_vl --folder runs/jomed_retina", "real data"),
        How("yaml", "own recipe"),
        *(How(name, "recipe options") for name in ("--folder", "--set STEP.KEY=VALUE", "--dry_run", "--from STEP")),
        *(How(name, "recipe options") for name in ("--devices 4", "--launcher torchrun --devices 4")),
        How("srun --kill-on-bad-exit=1 python -m medrag_lightning run jomed", "cli/test_cli_recipe_run.py"),
    ],
    "How many candidates, with a guarantee": [
        How("--alpha", "cli/test_cli_calibrate.py"),
        How("--delta", "cli/test_cli_calibrate.py"),
        How("run calibrated", "test_configs.py::test_recipes_can_be_planned"),
        How("yaml", "answering/test_calibrated_answers.py"),
        How("answer RUN --ckpt_path WEIGHTS --calibration FILE", "answering/test_calibrated_answers.py"),
        How("export RUN ... --calibration FILE", "handoff/test_bundle_calibrated.py"),
    ],
    "Reports and texts": [How("yaml", "yaml blocks", says="KnowledgeSearch")],
    "Dialogues": [
        How("turns: history", "data/test_dialogues.py"),
        How("yaml", "yaml blocks", says="LmRewriter"),
        How("--history FILE", "cli/test_cli_answer.py"),
    ],
    "A corpus on a server, and a graph": [How("yaml", "yaml blocks", says="MilvusSearch")],
    "Pages, captioned pictures and the web": [How("yaml", "yaml blocks", says="WebSearch")],
    "Questions whose documents are known": [
        How(f"{PROGRAM}reranker -c data/pubmedqa", "test_configs.py"),
        How("--output FILE", "cli/test_cli_reranker.py"),
    ],
    "What a reader relies on": [
        How("yaml", "afterwards", leaves="runs/mine-001/knowledge.json"),
        option(
            "scoring.conditions: {none: false, each_candidate: false, knowledge: true}", "data.init_args.scoring.conditions"
        ),
    ],
    "Layers to steer": [
        How(
            f"{PROGRAM}predict -c stages/critical_layers -c readers/mini -c data/minihospital "
            "--model.init_args.init_from runs/READER/checkpoints/best-STEP.ckpt",
            "steering", leaves="runs/minihospital-001/steering_layers.yaml",
            add=f"{SMALL} --model.init_args.max_samples=4 --data.init_args.max_eval_queries=8 "
            "--model.init_args.template.evidence_prefix='report {number}: '",
        ),
        How(
            f"{PROGRAM}test -c runs/READER/config.yaml --ckpt_path best -c runs/minihospital-001/steering_layers.yaml "
            "--model.init_args.steering '{retrieved: {policy: paper, layers: critical}}'",
            "steering", says="retrieved",
        ),
        option("evidence: all_in_one_prompt", "model.init_args.evidence"),
        option("layers: critical", "model.init_args.steering.retrieved.layers"),
    ],
    "Spoilt evidence": [
        How("yaml", "afterwards", leaves="runs/mine-001/noise.json"),
        option("scores: kept", "data.init_args.noise.scores"),
    ],
    "A reader that does not fit one GPU": [How("yaml", "yaml blocks", says="ModelParallelStrategy")],
}  # fmt: skip
TABLE = {"README.md": README, "configs/README.md": CONFIGS}
