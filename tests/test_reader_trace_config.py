"""configs/stages/reader_trace.yaml with a small reader: trained in two phases, tested, and asked."""

import json
from pathlib import Path

import pytest

from medrag_lightning.cli import main
from medrag_lightning.data.minihospital import MiniHospital
from medrag_lightning.records import Kept, Split, Trace
from medrag_lightning.trace_files import TraceRow, write_traces

READER = "model.init_args.reader.init_args.backbone"
SMALL = {"hidden": 32, "layers": 1, "heads": 2, "vision_hidden": 32, "vision_layers": 1, "vocabulary": 400}
FEW = [
    "--data.init_args.max_train_queries=8",
    "--data.init_args.max_eval_queries=4",
    "--data.init_args.regimes=[retrieved,none]",
]
TRACES = ["--data.init_args.evidence.traces.folder=traces", "--data.init_args.evidence.traces.decoded=2"]
ONCE = ["--trainer.max_steps=1", "--trainer.max_epochs=-1", "--test_after_fit=false"]
STAGE = ["-c", "stages/reader_trace", "-c", "data/minihospital", *FEW, *TRACES, "--model.init_args.max_new_tokens=8"]


def made(folder: Path) -> None:
    """Traces by hand, for the questions that the limits keep: of the training documents of other patients."""
    world = MiniHospital(seed=1)
    documents = [document for document in world.documents() if document.image is not None and document.text]
    rows = []
    for split in (Split.TRAIN, Split.VAL):
        for query in [query for query in world.queries() if query.split is split][:8]:
            shown = [one for one in documents if one.patient_id != query.patient_id][:2]
            trace = Trace((Kept(2, shown[1].text),), "one", "evidence 2 says so", query.answer or "none")
            rows.append(TraceRow(query.id, split, tuple(one.id for one in shown), (True, True), trace))
    write_traces(folder / "traces", rows, {"by": "hand"})


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_reader_of_traces_is_trained_in_two_phases_tested_and_asked(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    made(tmp_path)
    small = [f"--{READER}.init_args.{key}={value}" for key, value in SMALL.items()]
    first = "--model.init_args.learning_rates={projector: 1e-3, language_model: null, vision: null}"
    main(["fit", *STAGE, *small, *ONCE, first, "--trainer.default_root_dir=first"])
    (aligned,) = Path("first/checkpoints").glob("best*.ckpt")
    main(["fit", *STAGE, *small, *ONCE, f"--model.init_args.init_from={aligned}", "--trainer.default_root_dir=second"])
    (best,) = Path("second/checkpoints").glob("best*.ckpt")
    main(["test", "-c", "second/config.yaml", f"--ckpt_path={best}", "--trainer.default_root_dir=tested"])
    systems = {row["system"] for row in json.loads(Path("tested/results.json").read_text())["rows"]}
    assert {"retrieved", "initial", "no retrieval"} <= systems
    capsys.readouterr()
    main(["answer", "second", "--ckpt_path=best", "--question", "which sign?", "--choices", "one,two"])
    told = capsys.readouterr().out
    assert "trace:\n  kept: " in told
