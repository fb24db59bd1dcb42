"""How long a report takes and how large it is: a made-up run of 1,000 questions with 5 documents each, all images distinct.

The run is made first, outside the clock: JPEG files from the mini-hospital's drawings, tables, predictions that are drawn
(their numbers mean nothing), results and curves. The last line is JSON.

    GOMP_SPINCOUNT=0 OMP_NUM_THREADS=1 python scripts/bench/report.py
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from callbacks.predictions_writer import prediction_row
from medrag_lightning.artifacts import write_json, write_jsonl
from medrag_lightning.data.minihospital_images import DYES, FINDINGS, MODALITIES, SIDES, Look, draw
from medrag_lightning.data.tables import JsonlCorpus, JsonlQueries
from medrag_lightning.handoff.report import Options, write_report
from medrag_lightning.metrics import Unit, analyse, cluster_of, control_predictions, summarise
from medrag_lightning.mixture import Fusion
from medrag_lightning.records import AnswerType, Channel, Prediction, Query, Regime

QUESTION = "which finding does this synthetic picture show?"
CHANNELS = (Channel.IMAGE_TO_IMAGE, Channel.IMAGE_TO_TEXT)
REPORT = "synthetic {modality}, {finding} on the {side} side, {dye} dye. Compared with the earlier picture there is no change. "
TextOf = Callable[[int, str], str]


def make_run(folder: Path, queries: int, candidates: int, image_px: int = 256, text_of: TextOf | None = None) -> Path:
    """A run folder as a test leaves it, with tables and images beside it; `text_of` changes a document's text."""
    looks = [_look(number) for number in range(queries * (1 + candidates))]
    _draw_all(folder / "images", looks, image_px)
    names = list(FINDINGS)
    rows = [
        {
            "id": f"case-{n:05d}", "patient_id": f"PATIENT{n // 2:05d}", "study_id": f"STUDY{n:05d}", "image": f"{n}.jpg",
            "question": QUESTION, "answer": looks[n].finding, "choices": names, "answer_type": "closed", "split": "test",
        }
        for n in range(queries)
    ]  # fmt: skip
    write_jsonl(folder / "test.jsonl", rows)
    documents = []
    for n in range(queries, len(looks)):
        told = REPORT.format(modality=looks[n].modality, finding=looks[n].finding, side=looks[n].side, dye=looks[n].dye) * 2
        text = told if text_of is None else text_of(n, told)
        ids = {"patient_id": f"PATIENT9{n:05d}", "study_id": f"STUDY9{n:05d}"}
        documents.append({"id": f"doc-{n:05d}", "image": f"{n}.jpg", "text": text, "license": "synthetic", **ids})
    write_jsonl(folder / "corpus.jsonl", documents)
    run = folder / "runs" / "made_up"
    _write_config(run, folder)
    asked = JsonlQueries(str(folder / "test.jsonl"), str(folder / "images")).queries()
    found = [document.id for document in JsonlCorpus(str(folder / "corpus.jsonl"), str(folder / "images")).documents()]
    _write_results(run, asked, predict(asked, found, candidates))
    return run


def predict(queries: Sequence[Query], documents: Sequence[str], candidates: int, seed: int = 0) -> list[Prediction]:
    """Drawn predictions: without evidence, and with so many documents, mixed as `Fusion` mixes."""
    rng, fusion, made = np.random.default_rng(seed), Fusion(), []
    for n, query in enumerate(queries):
        gold = query.gold_index
        alone = _log_probabilities(rng, len(query.choices), gold, 0.8)
        made.append(_prediction(query, Regime.NONE, alone))
        rows = np.stack([_log_probabilities(rng, len(query.choices), gold, 1.6) for _ in range(candidates)])
        scores = np.sort(rng.uniform(0.2, 0.9, candidates))[::-1]
        channels = [CHANNELS[k % 2] for k in range(candidates)]
        weights = fusion.weights(scores.tolist(), [str(channel) for channel in channels])
        told: dict[str, Any] = {
            "cited": tuple(documents[n * candidates : (n + 1) * candidates]),
            "weights": tuple(weights.tolist()),
            "scores": tuple(scores.tolist()),
            "channels": tuple(channels),
            "candidate_logp_nats": tuple(map(tuple, rows.tolist())),
            "candidate_answers": tuple(query.choices[best] for best in rows.argmax(axis=1)),
        }
        made.append(_prediction(query, Regime.RETRIEVED, fusion.closed(rows, weights), **told))
    return made


def main(argv: Sequence[str] | None = None) -> None:
    """Makes the run, times its report, prints JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--candidates", type=int, default=5)
    parser.add_argument("--image_px", type=int, default=256)
    parser.add_argument("--keep", type=Path, help="a folder for the run and its report; by default a temporary one")
    told = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as temporary:
        folder = told.keep or Path(temporary)
        run = make_run(folder, told.queries, told.candidates, told.image_px)
        sys.stdout.write(f"made {told.queries} questions, {told.queries * (1 + told.candidates)} images\n")
        started, cpu = time.perf_counter(), time.process_time()
        made = write_report(run, Options(queries=told.queries))
        seconds = time.perf_counter() - started
        figures = {"seconds": round(seconds, 2), "megabytes": round(made.megabytes, 2), "queries": told.queries}
        figures["cpu_seconds"] = round(time.process_time() - cpu, 2)
        figures |= {
            "candidates": told.candidates,
            "images": told.queries * (1 + told.candidates),
            "warnings": len(made.warnings),
        }
        sys.stdout.write("".join(f"warning: {warning}\n" for warning in made.warnings) + json.dumps(figures) + "\n")


def _look(number: int) -> Look:
    def of(values: Sequence[str], every: int) -> str:
        return values[number // every % len(values)]

    return Look(of(MODALITIES, 1), of(list(FINDINGS), 4), of(list(DYES), 48), of(SIDES, 3), 0.9, number)


def _draw_all(folder: Path, looks: Sequence[Look], image_px: int) -> None:
    folder.mkdir(parents=True)

    def one(number: int) -> None:
        picture = Image.fromarray(draw(looks[number], 0)).resize((image_px, image_px), Image.Resampling.NEAREST)
        picture.save(folder / f"{number}.jpg", quality=90)

    with ThreadPoolExecutor() as pool:
        list(pool.map(one, range(len(looks))))


def _log_probabilities(rng: np.random.Generator, choices: int, gold: int, skill: float) -> Any:
    score_C = rng.normal(0, 1, choices)
    score_C[gold] += skill * rng.uniform(0, 2)
    return score_C - np.log(np.exp(score_C).sum())


def _prediction(query: Query, regime: Regime, logp_C: Any, **more: Any) -> Prediction:
    answer = query.choices[int(logp_C.argmax())]
    return Prediction(
        query.id, regime, answer, answer, query.answer, AnswerType.CLOSED, query.choices, tuple(logp_C.tolist()),
        question=query.question, gold_logp_nats=float(logp_C[query.gold_index]), **more,
    )  # fmt: skip


def _write_config(run: Path, folder: Path) -> None:
    images = str(folder / "images")
    queries = {"path": str(folder / "test.jsonl"), "image_root": images}
    corpus = {"path": str(folder / "corpus.jsonl"), "image_root": images}
    tables = "medrag_lightning.data.tables"
    data = {
        "tables": [{"class_path": f"{tables}.JsonlQueries", "init_args": queries}],
        "corpus": [{"class_path": f"{tables}.JsonlCorpus", "init_args": corpus}],
        "max_pixels": 50_000_000,
    }
    fusion = {"mode": "probability_mixture", "normalisation": "per_head_softmax", "temperature": 0.1, "head_weights": None}
    model = {"class_path": "medrag_lightning.stages.reader_raft.ReaderRaft", "init_args": {"fusion": fusion}}
    told = {"seed_everything": 0, "model": model, "data": {"init_args": data}}
    run.mkdir(parents=True)
    (run / "config.yaml").write_text(yaml.safe_dump(told), encoding="utf-8")


def _write_results(run: Path, queries: Sequence[Query], predictions: Sequence[Prediction]) -> None:
    write_jsonl(run / "predictions" / "test.jsonl", map(prediction_row, predictions))
    clusters = cluster_of(queries, Unit.PATIENT)
    controls, notes = control_predictions(queries, queries)
    table = summarise([*predictions, *controls], clusters)
    head = {"title": "Made-up results: SYNTHETIC DATA", "intervals": "by patient", "notes": [*table.notes, *notes]}
    write_json(run / "results.json", {**table.as_json(), **head, "evidence": analyse(predictions, clusters).as_json()})
    steps = range(0, 2000, 10)
    lines = [
        f"0,{step},{2 / (1 + step / 300):.4f},{f'{2 / (1 + step / 350):.4f}' if step % 200 == 0 else ''}" for step in steps
    ]
    (run / "metrics.csv").write_text("epoch,step,train/loss,val/loss\n" + "\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
