"""Whether probabilities can be trusted, what answering less would gain, and from which probability on to answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from medrag_lightning.handoff.report.cells import percent
from medrag_lightning.handoff.report.chart import Axis, Plot, legend, panels, share_axis
from medrag_lightning.handoff.report.markup import Html, joined, table, tag
from medrag_lightning.handoff.report.material import Material
from medrag_lightning.handoff.report.section import TEST, VALIDATE, Section, note
from medrag_lightning.metrics import (
    AbstentionRule,
    Bootstrap,
    Metric,
    abstention_rule,
    area_under_risk_coverage,
    closed_calibration,
    expected_calibration_error,
    reliability_bins,
    risk_coverage,
)
from medrag_lightning.records import AnswerType, Prediction

RESAMPLES = 500
LEAST_QUESTIONS = 10


@dataclass(frozen=True)
class Confidence:
    """Top-choice probability of each closed question of a system, whether it is right, and which are resampled together."""

    name: str
    probability: Sequence[float]
    correct: Sequence[float]
    clusters: Sequence[str]

    def metric(self, statistic: Any) -> Metric:
        """A statistic of them with its interval."""
        return Bootstrap(resamples=RESAMPLES).metric(statistic(self.probability, self.correct), self.clusters)


def confidence_section(material: Material) -> Section:
    """Reliability, risk and coverage, and a suggested abstention threshold."""
    title = "Calibration and abstention"
    found = [one for name in dict.fromkeys([material.main_system, "no retrieval"]) if (one := _confidence(material, name))]
    if not found:
        reason = "no closed question was scored with a known answer (open answers carry no probability)"
        return Section.absent("confidence", title, reason if material.predictions else "the run has no predictions", TEST)
    parts = [panels(*(_reliability(one) for one in found), _risk(found, suggested(material)))]
    parts += [legend([one.name for one in found]), _numbers(found), _suggestion(material, found[0])]
    return Section("confidence", title, joined(parts))


def suggested(material: Material) -> dict[str, Any] | None:
    """The abstention rule as plain JSON, for the report and for who deploys: the threshold, what it was chosen on, whether it
    may be used, and what it does here. None where no closed question was scored; ``threshold`` is null where no rule will do.
    """
    here = _confidence(material, material.main_system)
    if here is None:
        return None
    validation = material.validation
    chosen_on = here if validation is None else _of(validation.predictions, material, material.main_system)
    if chosen_on is None or len(chosen_on.probability) < LEAST_QUESTIONS:
        chosen_on, validation = here, None
    at_all = 1 - sum(chosen_on.correct) / len(chosen_on.correct)
    max_risk = at_all / 2 if material.max_risk is None else material.max_risk
    rule = abstention_rule(chosen_on.probability, chosen_on.correct, max_risk)
    return {
        "schema": 1,
        "threshold": None if rule is None else rule.threshold,
        "usable": rule is not None and validation is not None,
        "chosen_on": "val" if validation is not None else str(material.run.split),
        "what": "answer a closed question where the likeliest choice has at least this probability, else abstain",
        "max_risk": max_risk,
        "rule": None if rule is None else asdict(rule),
        "here": None if rule is None else _effect(here, rule),
    }


def _confidence(material: Material, system: str) -> Confidence | None:
    return _of(material.systems.get(system, []), material, system)


def _of(predictions: Sequence[Prediction], material: Material, name: str) -> Confidence | None:
    scored = [p for p in predictions if p.answer_type is AnswerType.CLOSED and p.logp_nats and p.gold is not None]
    if not scored:
        return None
    return Confidence(name, *closed_calibration(scored), material.clusters([p.query_id for p in scored]))


def _effect(here: Confidence, rule: AbstentionRule) -> dict[str, Any]:
    right = [c for p, c in zip(here.probability, here.correct, strict=True) if p >= rule.threshold]
    n = len(here.correct)
    return {"answered": len(right), "n": n, "coverage": len(right) / n, "risk": 1 - sum(right) / len(right) if right else None}


def _reliability(one: Confidence) -> Html:
    plot = Plot(f"reliability: {one.name}", share_axis("probability of the answer (%)"), share_axis("right (%)"))
    plot.line([(0, 0), (1, 1)], 7, dashed=True, words="as likely as said")
    for found in reliability_bins(one.probability, one.correct, bins=10):
        if found.count:
            told = f"said {found.mean_probability:.0%}, right {found.accuracy:.0%} of {found.count}"
            plot.bar(found.low + 0.01, found.high - 0.01, 0.0, found.accuracy, 0, told)
            plot.dot(
                found.mean_probability, found.accuracy, 1, told, radius=2.0 + 6.0 * (found.count / len(one.correct)) ** 0.5
            )
    return plot.svg()


def _risk(found: Sequence[Confidence], rule: Mapping[str, Any] | None) -> Html:
    top = max(float(risk_coverage(one.probability, one.correct).risk_G.max()) for one in found)
    plot = Plot("risk and coverage", share_axis("answered (%)"), Axis("wrong among the answered", 0.0, max(0.05, 1.05 * top)))
    for place, one in enumerate(found):
        curve = risk_coverage(one.probability, one.correct)
        plot.line(list(zip(curve.coverage_G.tolist(), curve.risk_G.tolist(), strict=True)), place, words=one.name)
    if rule is not None and rule["here"] is not None and rule["here"]["risk"] is not None:
        plot.upright(rule["here"]["coverage"], f"from {rule['threshold']:.2f} on")
        plot.dot(rule["here"]["coverage"], rule["here"]["risk"], 0, "the suggested threshold, here", radius=5)
    return plot.svg()


def _numbers(found: Sequence[Confidence]) -> Html:
    rows = []
    for one in found:
        ece, area = one.metric(expected_calibration_error).as_json(), one.metric(area_under_risk_coverage).as_json()
        accuracy = sum(one.correct) / len(one.correct)
        rows.append([one.name, f"{100 * accuracy:.1f}", percent(ece), percent(area), _perfect(one), len(one.correct)])
    head = ["system", "accuracy", "ECE", "AURC", "AURC of a perfect order", "n"]
    caption = f"closed questions, %; intervals by bootstrap over patients, {RESAMPLES} resamples"
    how = note(
        "AURC: the share of wrong answers among the answered, averaged over how many are answered; lower is better. A dot's "
        "size is the number of questions; above the dashed line the system is less sure than it could be, below it too sure."
    )
    return joined([table(head, rows, caption), how])


def _perfect(one: Confidence) -> str:
    """The least AURC with these answers: every right one before every wrong one, one after the other."""
    wrong, n = len(one.correct) - sum(one.correct), len(one.correct)
    return f"{100 * sum((k + 1) / (n - wrong + k + 1) for k in range(round(wrong))) / n:.1f}"


def _suggestion(material: Material, here: Confidence) -> Html:
    told = suggested(material)
    assert told is not None
    heading = tag("h3", "Suggested abstention threshold")
    bound = f"{100 * told['max_risk']:.1f} %"
    if told["rule"] is None:
        why = f"no threshold keeps the share of wrong answers below {bound} with 95 % confidence on these questions"
        return joined([heading, note(f"None: {why}. Allow more with --max_risk, or use more validation questions.")])
    rule = told["rule"]
    chosen = (
        f"{told['threshold']:.3f}: answer from this probability on. It is the lowest one with which at most {bound} of the "
        f"answered are wrong (95 % upper bound {100 * rule['risk_bound']:.1f} %, seen {100 * rule['risk']:.1f} %, "
        f"{rule['answered']} of {rule['n']} answered)."
    )
    effect = told["here"]
    seen = f"On the questions of this report: {effect['answered']} of {effect['n']} answered, wrong {_rate(effect['risk'])}, "
    seen += f"against {100 * (1 - sum(here.correct) / len(here.correct)):.1f} % when everything is answered."
    if told["usable"]:
        assert material.validation is not None
        source = tag("p", f"Chosen on {material.validation.words}.", class_="note")
    else:
        warning = "Read off the very questions that are reported on: it shows what is possible and must not be used as it is. "
        source = tag("p", tag("b", warning), "To choose one that may be used: ", tag("code", VALIDATE), class_="warning")
    many = "The bound takes questions as independent and is not corrected for the choice among thresholds."
    return joined([heading, tag("p", chosen, class_="key"), source, note(seen, " ", many)])


def _rate(risk: float | None) -> str:
    return "none" if risk is None else f"{100 * risk:.1f} %"
