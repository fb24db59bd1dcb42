"""The calibration of a bundle: what it was shown to keep, and that it is about this system."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from medrag_lightning.calibration import Calibration, Policy
from medrag_lightning.handoff.bundle.layout import TOLERANCE_NATS
from medrag_lightning.handoff.bundle.settings_schema import COUNT, FLAG, NAME, TEXT, Schema, of_class, of_object, of_type
from medrag_lightning.mixture import Fusion

Told = Mapping[str, Any]
MOST_NATS = TOLERANCE_NATS["float32"]
"""How far a calibrated bundle may lie from the reader that was calibrated; more is another reader."""
OF_THE_RUN = ("reader", "corpus", "source")  # a bundle's have other fingerprints: merged weights, hashed ids


def describe_calibration(calibration: Calibration) -> dict[str, Any]:
    """The entry of ``system.json``: the file without the choices that were not taken.

    Of `of`, what a bundle keeps as it is stays comparable (template, evidence, fusion). Reader, corpus and source are those of
    the run; that the bundle answers as they do is proved by the export, and kept by its sums.
    """
    told, of = calibration.told, calibration.of
    names = ("policy", "guaranteed", "risk", "alpha", "delta", "unit", "units", "questions", "ordering_units", "validity")
    return {
        **{name: told[name] for name in names},
        "procedure": told["settings"]["procedure"],
        "choices": len(told["tested"]),
        "split": told.get("split"),
        "calibration_set": of["calibration_set"],
        "of_run": {name: of[name] for name in OF_THE_RUN},
        "of": {name: value for name, value in of.items() if name in ("template", "evidence", "fusion")},
    }


def calibration_schema() -> Schema:
    """JSON Schema of that entry."""
    number = {"type": "number", "exclusiveMinimum": 0, "maximum": 1}
    count = {"type": "integer", "minimum": 0}
    nothing = {"type": "null"}
    return of_object(
        {
            "policy": {"anyOf": [nothing, of_class(Policy)]},
            "guaranteed": FLAG,
            "risk": NAME,
            "alpha": number,
            "delta": number,
            "unit": NAME,
            "units": COUNT,
            "questions": COUNT,
            "ordering_units": count,
            "validity": TEXT,
            "procedure": NAME,
            "choices": COUNT,
            "split": of_type(str | None),
            "calibration_set": NAME,
            "of_run": of_object(dict.fromkeys(OF_THE_RUN, of_type(str | None))),
            "of": of_object({"template": NAME, "evidence": NAME, "fusion": {"anyOf": [nothing, of_class(Fusion)]}}),
        }
    )


def load_calibration(spec: Told | None) -> Calibration | None:
    """The calibration of an entry in ``system.json``; None for a bundle without one. The answerer compares what it can."""
    return None if spec is None else Calibration.from_json(spec)


def faults_of_calibration(system: Told) -> list[str]:
    """Where a bundle's calibration does not fit its other settings, in words. Needs no torch."""
    told = system.get("calibration")
    if told is None:
        return []
    faults = []
    try:
        Calibration.from_json(told)
    except ValueError as error:
        faults.append(f"calibration: {error}")
    if system["abstain_below"] is not None or system["closed_answers"] != "scored":
        faults.append("calibration: says itself when to abstain, by scored answers; abstain_below and closed_answers say else")
    fusion = system["fusion"] if system["evidence"] == "one_per_prompt" else None
    for name, mine in (("evidence", system["evidence"]), ("fusion", fusion)):
        if told["of"][name] != mine:
            faults.append(f"calibration: was made with another {name} than this bundle answers with")
    if told["guaranteed"] and told["policy"] is None:
        faults.append("calibration: guarantees a choice and has none")
    return faults


def refuse_another_reader(calibration: Calibration | None, parity: Told) -> None:
    """ValueError unless the bundle's numbers are those of the reader that was calibrated, if one was."""
    delta, changed = parity["max_abs_delta_as_trained_nats"], parity["answers_changed_as_trained"]
    if calibration is not None and (delta > MOST_NATS or changed):
        raise ValueError(
            f"--calibration: the reader of this bundle is not the one that was calibrated: its log-probabilities differ by "
            f"{delta:.1e} nats (allowed {MOST_NATS:.0e}), {changed} answers of {parity['probes']} changed, so the guarantee "
            "says nothing of it. Export with --reader adapter and without --dtype, which keep the reader as it is, or score "
            "and calibrate with a reader of the exported type (--trainer.precision)"
        )


def words_of(told: Told) -> str:
    """In a line: the choice, and what it keeps."""
    policy = "abstains from everything" if told["policy"] is None else str(Policy(**told["policy"]))
    return f"{policy}; {Calibration.from_json(told).sentence}"


def card_section(told: Told, parity: Told) -> str:
    """The part of the model card."""
    rows = {
        "choice": "abstains from everything" if told["policy"] is None else Policy(**told["policy"]),
        "guaranteed": "yes" if told["guaranteed"] else "NO",
        "risk": told["risk"],
        "alpha (the risk that is not exceeded)": f"{told['alpha']:g}",
        "delta (how likely the guarantee fails)": f"{told['delta']:g}",
        "n": f"{told['units']} {told['unit']}, {told['questions']} questions"
        + (f"; {told['ordering_units']} more said in which order choices are tested" if told["ordering_units"] else ""),
        "procedure": f"{told['procedure']}, Hoeffding-Bentkus p-values, {told['choices']} choices tested",
        "calibration set": f"split {told['split'] or 'not told'}, sha256 `{told['calibration_set'][:16]}`",
    }
    delta = parity["max_abs_delta_as_trained_nats"]
    return (
        "".join(f"- {name}: {value}\n" for name, value in rows.items())
        + f"\n{told['validity']}\n\nIt was made with the run's reader as it was trained. On {parity['probes']} probe questions "
        f"this bundle's log-probabilities lie within {delta:.1e} nats of it (allowed: {MOST_NATS:.0e}), and it abstains from "
        "the same ones: only an answer that is nearer than that to a threshold, or to the next answer, can differ. On another "
        "device or in another type it is another reader, of which nothing is guaranteed.\n"
    )
