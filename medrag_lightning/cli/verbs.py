"""fit, validate, test and predict: LightningCLI with a base file, run folders and plain messages."""

from __future__ import annotations

import argparse
import logging
import os
import re
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning as L
from jsonargparse import Namespace
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.plugins import Precision

from medrag_lightning.artifacts import atomic_write
from medrag_lightning.cli import config_files
from medrag_lightning.cli.checkpoint_head import CheckpointHead, read_head
from medrag_lightning.cli.config_files import ConfigFile
from medrag_lightning.cli.explain import explain
from medrag_lightning.cli.null_words import read_null_words
from medrag_lightning.cli.orphan import end_with_parent
from medrag_lightning.cli.outcome import INTERRUPTED, PREEMPTED, tell
from medrag_lightning.cli.run_folder import CHILD_VARIABLE, Request, choose_folder, last_checkpoint, leave_folder

VERBS = ("fit", "validate", "test", "predict")


def run_trainer_verb(verb: str, arguments: Sequence[str]) -> None:
    """Reads the configuration of a verb and runs it. ValueError for every mistake in it."""
    cli: MedragCLI | None = None
    end_with_parent()
    try:
        cli = read_command(verb, arguments)
        cli.run()
    except SystemExit as ending:
        _say_how_to_go_on(cli, ending)
    finally:
        leave_folder()


def build_data(arguments: Sequence[str]) -> Any:
    """The data module of a configuration, for verbs without a trainer. ValueError for every mistake in it."""
    return build_parts(arguments)[1]


def build_parts(arguments: Sequence[str]) -> tuple[Any, Any]:
    """The stage and the data module of a configuration, without a trainer's verb. ValueError for every mistake in it."""
    try:
        made = read_command("predict", arguments)
        return made.model, made.datamodule
    finally:
        leave_folder()


def read_command(verb: str, arguments: Sequence[str], kind: type[MedragCLI] | None = None) -> MedragCLI:
    """The parts of a configuration, built and not run; `kind` may build them in another way. ValueError for every mistake."""
    names, rest = config_files.split_arguments(arguments)
    if not names and verb != "fit":
        raise ValueError(f"{verb} needs -c: the config of a run, such as -c runs/NAME-001/config.yaml --ckpt_path best")
    model_given = any(word.split("=")[0] in ("--model", "--model.class_path") for word in rest)
    files = config_files.read_all(names, model_given)
    config_files.refuse_own_seeds(files, rest)
    _be_quiet()
    read_null_words()
    rest = ["--help" if argument == "--help_all" else argument for argument in rest]
    configs = [word for file in files for word in ("-c", str(file.path))]
    return (kind or MedragCLI)(files, Path(files[-1].path).stem, [verb, *configs, *rest])


class SaveConfig(SaveConfigCallback):
    """Writes the merged configuration to ``<run folder>/config.yaml`` when a fit begins; an earlier one is kept beside it.

    Other verbs write it where there is none: they would else overwrite what the run was trained with.
    """

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Once a process, on the first one."""
        there = (Path(trainer.default_root_dir) / self.config_filename).exists()
        if (stage == "fit" or not there) and trainer.is_global_zero:
            config = self.config.clone()
            config["ckpt_path"] = None  # or a later fit with this file would silently go on with this run
            text = self.parser.dump(config, skip_unset=False)
            path = Path(trainer.default_root_dir) / self.config_filename
            if path.exists() and path.read_text(encoding="utf-8") != text:
                number = len(list(path.parent.glob("config.before_resume_*.yaml"))) + 1
                path.rename(path.with_name(f"config.before_resume_{number}.yaml"))
            with atomic_write(path, "w") as stream:
                stream.write(text)


class MedragCLI(LightningCLI):
    """Parses and instantiates on construction; `run` runs the verb."""

    def __init__(self, files: Sequence[ConfigFile], name: str, arguments: list[str]) -> None:
        self.files, self.run_name, self.arguments = files, name, arguments
        self.head = CheckpointHead()
        super().__init__(
            L.LightningModule,
            L.LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            seed_everything_default=0,
            save_config_callback=SaveConfig,
            parser_kwargs={"exit_on_error": False, **{verb: {"exit_on_error": False} for verb in VERBS}},
            args=arguments,
        )

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """The verbs, and the arguments of the trainer's methods that are not settings here."""
        common = {"model", "dataloaders", "datamodule", "weights_only"}
        return {
            "fit": {"model", "train_dataloaders", "val_dataloaders", "datamodule", "weights_only"},
            "validate": {*common, "verbose"},
            "test": {*common, "verbose"},
            "predict": {*common, "return_predictions"},
        }

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds what the verbs share, so that the config of a fit serves them all."""
        parser.add_argument("--test_after_fit", type=bool, default=True, help="(fit) Test the best weights afterwards.")
        for part in ("model", "data"):
            parser.link_arguments("seed_everything", f"{part}.init_args.seed", compute_fn=int)

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parses; ValueError says in plain words what is wrong and where."""
        known = {action.dest.split(".")[0] for verb in VERBS for action in self._parser(verb)._actions}
        config_files.check_top_level(self.files, sorted(known - {"config", "help", "print_config", "print_shtab"}))
        try:
            self.config = parser.parse_args(self.arguments)
        except argparse.ArgumentError as error:
            raise ValueError(explain(str(error.message), self.files, self.arguments)) from error

    def _parse_ckpt_path(self) -> None:
        """Nothing: hyper-parameters in a checkpoint never override the configuration."""

    def _set_seed(self) -> None:
        seed = self._get(self.config, "seed_everything")
        L.seed_everything(int(seed), workers=False, verbose=False)

    def before_instantiate_classes(self) -> None:
        """Settles the run folder and the checkpoint."""
        assert self.subcommand is not None
        config = self.config[self.subcommand]
        root, asked = config.trainer.default_root_dir, config.ckpt_path
        request = Request(self.subcommand, self.run_name, Path(root) if root else None, str(asked) if asked else None)
        folder = choose_folder(request)
        os.environ[CHILD_VARIABLE] = str(folder)
        config.trainer.default_root_dir = str(folder)
        if asked:
            config.ckpt_path = str(self._checkpoint(request, folder))

    def instantiate_classes(self) -> None:
        """Builds stage, data and trainer, with ``${run_folder}`` and environment variables (``${MEDRAG_DATA}``) filled in.

        The saved configuration keeps the placeholders, so that it serves in another folder and on another machine.
        jsonargparse's wrapping around what a class said of its settings is taken off.
        """
        assert self.subcommand is not None
        written = self.config[self.subcommand].clone()
        variables = {**os.environ, "run_folder": str(written.trainer.default_root_dir)}
        for part in ("trainer", "model", "data"):
            self.config[self.subcommand][part] = _fill_in(written[part].clone(), variables)
        try:
            super().instantiate_classes()
            for callback in self.trainer.callbacks:  # type: ignore[attr-defined]
                if isinstance(callback, SaveConfig):
                    callback.config = written
        except ValueError as error:
            root: BaseException = error
            while root.__cause__ is not None:
                root = root.__cause__
            if isinstance(root, ValueError):
                raise ValueError(str(root)) from error
            raise root from None

    def after_instantiate_classes(self) -> None:
        """Refuses a precision that converts batches, and, before data are read, a checkpoint of another stage.

        Some stages may read (not resume) some others'.
        """
        if type(self.trainer.precision_plugin).convert_input is not Precision.convert_input:
            raise ValueError(
                f"--trainer.precision {self.trainer.precision}: batches and small weights are float32 here. Take bf16-mixed; "
                "what is frozen of a pretrained reader is in bfloat16 all the same (its backbone's `dtype`)"
            )
        mine = getattr(self.model, "stage_name", None)
        readable = () if self.subcommand == "fit" else getattr(self.model, "reads", ())
        if self.head.stage is not None and mine is not None and self.head.stage not in (mine, *readable):
            raise ValueError(
                f"--ckpt_path: the checkpoint is of stage {self.head.stage!r}, this run is stage {mine!r}. --ckpt_path "
                "goes on with the same stage; to start from another stage's weights give --model.init_args.init_from"
            )

    def _run_subcommand(self, subcommand: str) -> None:
        """Not yet: `run` does it, once the caller holds this object."""

    def run(self) -> None:
        """Runs the verb."""
        assert self.subcommand is not None
        super()._run_subcommand(self.subcommand)

    def before_fit(self) -> None:
        """A resumed run goes on in its own metrics.csv."""
        for logger in self.trainer.loggers:
            if self.head.logged_step is not None and hasattr(logger, "rewind"):
                logger.rewind(self.head.logged_step)

    def after_fit(self) -> None:
        """Tests the best weights, or the last where nothing tells which are best."""
        if not self.config["fit"].test_after_fit or getattr(self.trainer, "fast_dev_run", False):
            return
        best = next((c.best_model_path for c in self.trainer.checkpoint_callbacks if isinstance(c, ModelCheckpoint)), "")
        self.trainer.test(self.model, datamodule=self.datamodule, ckpt_path=best or None, verbose=False)

    def test(self, model: L.LightningModule, **arguments: Any) -> None:
        """Without Lightning's own table: the results table comes last."""
        self.trainer.test(model, verbose=False, **arguments)

    def predict(self, model: L.LightningModule, **arguments: Any) -> None:
        """Callbacks write the predictions; they are not kept in memory."""
        self.trainer.predict(model, return_predictions=False, **arguments)

    def _checkpoint(self, request: Request, folder: Path) -> Path:
        path = last_checkpoint(folder) if request.keyword else Path(str(request.ckpt_path))
        if not path.is_file():
            raise ValueError(f"--ckpt_path: {path} does not exist; give a file, `last` or `best`")
        self.head = read_head(path)
        if request.keyword != "best":
            return path
        if not self.head.best_path:
            raise ValueError(f"--ckpt_path best: {path} names no best checkpoint; use --ckpt_path last")
        best = folder / "checkpoints" / Path(self.head.best_path).name  # the run may have been moved
        if not best.is_file():
            raise ValueError(f"--ckpt_path best: {best} is gone; use --ckpt_path last")
        return best


def _fill_in(value: Any, variables: Mapping[str, str]) -> Any:
    """`value` with every ``${NAME}`` in the strings below it replaced; ValueError names one that is not set."""
    if isinstance(value, str):
        return re.sub(r"\$\{(\w+)\}", lambda match: _variable(match[1], value, variables), value)
    if isinstance(value, list):
        return [_fill_in(item, variables) for item in value]
    if isinstance(value, dict):
        return {key: _fill_in(item, variables) for key, item in value.items()}
    if isinstance(value, Namespace):
        for key, item in vars(value).items():
            setattr(value, key, _fill_in(item, variables))
    return value


def _variable(name: str, text: str, variables: Mapping[str, str]) -> str:
    if name not in variables:
        raise ValueError(f"{text}: the environment variable {name} is not set: export {name}=...")
    return variables[name]


def _say_how_to_go_on(cli: MedragCLI | None, ending: SystemExit) -> None:
    """Gives an interruption its exit code, and the command that goes on; raises `ending` or its like."""
    code = ending.code
    trainer = getattr(cli, "trainer", None)
    if type(ending).__name__ == "SIGTERMException":
        code = PREEMPTED
    elif trainer is not None and trainer.interrupted and code == 1:
        code = INTERRUPTED  # Lightning leaves with 1 after Ctrl-C outside training
    if cli is not None and cli.subcommand == "fit" and code in (PREEMPTED, INTERRUPTED):
        folder = Path(cli.trainer.default_root_dir)
        if (folder / "checkpoints" / "last.ckpt").is_file():
            command = f"python -m medrag_lightning fit -c {folder / 'config.yaml'} --ckpt_path last"
            tell(f"stopped; go on with: {command}", sys.stderr)
    raise SystemExit(code)


def _be_quiet() -> None:
    """Leaves out advertisements and warnings that no user can act on."""
    os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
    for name in ("utilities.rank_zero", "trainer.connectors.checkpoint_connector"):
        logging.getLogger(f"lightning.pytorch.{name}").addFilter(_worth_reading)
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")
    warnings.filterwarnings("ignore", message="The dirpath has changed")  # a step that tests another step's weights
    warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty")


def _worth_reading(record: logging.LogRecord) -> bool:
    message = record.getMessage()
    return not any(noise in message for noise in ("litlogger", "TPU available", "`weights_only` was not set"))
