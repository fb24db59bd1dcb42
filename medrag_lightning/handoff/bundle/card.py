"""The model card and the catalogue entry of a bundle, written from what the run left on disk."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from medrag_lightning import __version__
from medrag_lightning.artifacts import read_json
from medrag_lightning.handoff.bundle.guarantee import card_section
from medrag_lightning.handoff.bundle.layout import CLASS, SCHEMA

Told = Mapping[str, Any]
PACKAGES = ("torch", "transformers", "tokenizers", "safetensors", "numpy", "pillow", "pyarrow", "faiss-cpu", "peft")
INTENDED_USE = (
    "Research on retrieval and reading: studying what a system answers about medical images, from which evidence, and how sure "
    "it is. It is a research tool, not a medical device: no one may be diagnosed or treated by its answers."
)
LACKS_GENERATOR = (
    "The run was tested with searches that a query generator wrote. This bundle was exported without it, on demand: it "
    "searches with the question itself, so the figures of the run are not those of this system."
)
_HOW = {"merged": "a plain Hugging Face folder", "adapter": "a PEFT adapter and its base", "both": "a plain folder; adapter"}
_SHOWN = (
    "closed_accuracy",
    "closed_balanced_accuracy",
    "closed_macro_f1",
    "closed_ece",
    "open_token_recall",
    "open_token_f1",
)


def reader_told(how: str, dtype: str) -> str:
    """In words, how a reader lies in the bundle."""
    return f"{_HOW[how]}, {dtype}"


def searches_told(system: Told) -> dict[str, str]:
    """In words, what decides where a question is searched and with which words; empty where nothing does."""
    told, spec = {}, system.get("generator")
    if spec is not None:
        how = reader_told(spec["reader"]["kind"], spec["reader"]["dtype"])
        told["query generator"] = f"{how}; writes what to ask {', '.join(spec['corpora'])}"
    if "rewriter" in system:
        told["query rewriter"] = "rules; makes a question of a dialogue stand alone before anything is searched"
    return told | _routes(system["source"])


def _routes(source: Told) -> dict[str, str]:
    """How a question finds the part of its modality."""
    found = {}
    if source["kind"] == "routed":
        rest = {"refuse": "others are refused", "all": "others ask all"}.get(source["other"], f"others go to {source['other']}")
        how = {"given": "given with the question", "predicted": "told from its image"}
        route = how.get(source["route"], "given with the question, else told from its image")
        found["routes"] = f"{', '.join(part['name'] for part in source['parts'])} by modality, {route}; {rest}"
    pools = [part["source"] for part in source.get("parts", [])] + [one for one in (source.get("pool"),) if one]
    for inner in pools:
        found |= _routes(inner)
    return found


def versions() -> dict[str, str]:
    """The versions that matter to the answers, of the packages that are installed."""
    found = {"medrag_lightning": __version__, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def read_results(folders: Iterable[Path]) -> dict[str, Any] | None:
    """The ``results.json`` of the first folder that has one, in its metrics' own form; None where none has."""
    for folder in folders:
        if (folder / "results.json").is_file():
            found: dict[str, Any] = read_json(folder / "results.json")
            return found
    return None


def metadata(told: Told) -> dict[str, Any]:
    """``metadata.json`` as catalogues of MONAI bundles read it, with our own fields beside theirs."""
    image = {"type": "image", "format": "RGB", "modality": "as trained", "num_channels": 3, "dtype": "uint8"}
    text = {"type": "text", "format": "UTF-8"}
    return {
        "schema": f"medrag_lightning bundle {SCHEMA}",
        "version": told["version"],
        "changelog": {told["version"]: f"exported {told['created_utc']}"},
        "numpy_version": told["versions"]["numpy"],
        "pytorch_version": told["versions"]["torch"],
        "required_packages_version": {k: v for k, v in told["versions"].items() if k not in ("torch", "numpy", "python")},
        "name": told["name"],
        "task": "visual question answering from retrieved evidence",
        "description": f"Retrieves image-report evidence and answers questions about medical images. A {CLASS}.",
        "authors": None,
        "copyright": None,
        "data_source": told["data"]["sources"],
        "intended_use": INTENDED_USE,
        "eval_metrics": told["metrics"],
        "references": [],
        "network_data_format": {
            "inputs": {"image": image, "question": text, "choices": {"type": "list of text", "optional": True}},
            "outputs": {
                "answer": text,
                "logp_nats": {"type": "list of float", "of": "choices"},
                "citations": {"type": "list of documents with weights and licences"},
                "warnings": {"type": "list of text"},
                **({"searches": {"type": "text by corpus"}} if "query generator" in told["inside"] else {}),
            },
        },
    }


def metrics_of(results: Told | None) -> dict[str, Any]:
    """Value and interval of each metric by system, for all questions together; what was not computed is left out."""
    found: dict[str, Any] = {}
    for row in (results or {}).get("rows", []):
        if row.get("need") is None:
            kept = {name: one for name, one in row["metrics"].items() if name in _SHOWN and one.get("value") is not None}
            found[row["system"]] = {name: {k: one.get(k) for k in ("value", "low", "high", "n")} for name, one in kept.items()}
    return found


def model_card(told: Told, results: Told | None, calibration: Told | None = None) -> str:
    """``MODEL_CARD.md``; `calibration` is that of ``system.json``."""
    data, parity = told["data"], told["parity"]
    parts = [
        f"# {told['name']}\n\n**A {CLASS}.** {INTENDED_USE}\n",
        f"Exported {told['created_utc']} by medrag_lightning {told['version']}; bundle schema {SCHEMA}.\n",
        "## What is inside\n\n" + _rows(told["inside"]),
        "## How it was proved\n\n"
        + (
            f"{parity['probes']} questions were asked of the run and of this bundle in a clean process: the answers"
            f"{', the searches that are written' if 'query generator' in told['inside'] else ''} and the "
            f"evidence are the same, log-probabilities differ by at most {parity['max_abs_delta_logp_nats']:.2e} nats "
            f"(allowed: {parity['tolerance_nats']:.0e}). Against the run with the weights' types as they were trained: "
            f"{parity['max_abs_delta_as_trained_nats']:.2e} nats, {parity['answers_changed_as_trained']} answers changed.\n"
        ),
        *([] if calibration is None else ["## Calibration\n\n" + card_section(calibration, parity)]),
        "## Metrics\n\n" + _metrics(told["metrics"], results),
        "## Data\n\n"
        + _rows({"training questions": data["train"], "validation questions": data["val"], "test questions": data["test"]})
        + _rows({"documents in the evidence": data["documents"], "seed": told["seed"]})
        + _rows({f"sha256 of the {name}": f"`{value[:16]}`" for name, value in told["fingerprints"].items()})
        + "\nLicences of the evidence, by number of documents:\n\n"
        + _rows(data["licenses"])
        + "\nSources of the evidence, by number of documents:\n\n"
        + _rows(data["sources"]),
        "## Limits\n\n" + _bullets(_limits(told, results)),
        "## Versions\n\n" + _rows(told["versions"]),
    ]
    return "\n".join(parts)


def _metrics(metrics: Told, results: Told | None) -> str:
    if not metrics:
        return "Not measured: no results.json was found beside the run's config. `test` writes it; export again after it.\n"
    names = [name for name in _SHOWN if any(name in one for one in metrics.values())]
    lines = ["| system | " + " | ".join(name.replace("_", " ") for name in names) + " |", "|---" * (len(names) + 1) + "|"]
    for system, one in metrics.items():
        lines.append(f"| {system} | " + " | ".join(_cell(one.get(name)) for name in names) + " |")
    notes = [str(note) for note in (results or {}).get("notes", [])]
    return (
        "\n".join(lines) + "\n\nIntervals are those of the test; rows beside `retrieved` are its controls.\n" + _bullets(notes)
    )


def _cell(one: Told | None) -> str:
    if one is None or one["value"] is None:
        return "-"
    interval = "" if one["low"] is None else f" [{one['low']:.3f}, {one['high']:.3f}]"
    return f"{one['value']:.3f}{interval}, n {one['n']}"


def _limits(told: Told, results: Told | None) -> list[str]:
    limits = [
        "It was trained and tested on the data named above; on images of other devices, people or diseases nothing is known.",
        "Its probabilities are those of a language model over the given choices; calibration beyond the test set is not known.",
        "Text that stands in the evidence reaches the reader; whoever can write to the evidence can sway the answers.",
        "Ids of patients, studies and documents are keyed hashes: hidden, not encrypted. Images and texts are as they were.",
    ]
    if told.get("lacks"):
        limits.insert(0, told["lacks"])
    if told["data"]["synthetic"]:
        limits.insert(0, "The data are SYNTHETIC: figures have no medical meaning.")
    return limits


def _rows(told: Mapping[str, Any]) -> str:
    return "".join(f"- {name}: {value}\n" for name, value in told.items())


def _bullets(lines: Sequence[str]) -> str:
    return "".join(f"- {line}\n" for line in lines)
