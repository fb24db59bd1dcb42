"""Generated reports beside their references: BLEU-4, ROUGE-L, METEOR, CIDEr-D, and medical scores where they are installed.

Open questions with a long gold answer are reports here. BLEU and ROUGE are torchmetrics', METEOR is nltk's; a score whose
package is missing has no value and says why. No score stands in for another.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from medrag_lightning.metrics.bootstrap import Bootstrap, Floats, Metric, Statistic, ratio, weighted_mean
from medrag_lightning.metrics.cider import cider_d
from medrag_lightning.metrics.parsing import tokens_of
from medrag_lightning.metrics.report_plugins import PLUG_INS, UnavailableError
from medrag_lightning.metrics.systems import by_system, ordinary
from medrag_lightning.records import AnswerType, Prediction

SCORES = {
    "bleu_4": "BLEU-4",
    "rouge_l": "ROUGE-L",
    "meteor": "METEOR",
    "meteor_without_synonyms": "METEOR (no synonyms)",
    "cider_d": "CIDEr-D",
    "ratescore": "RaTEScore",
    "radgraph": "RadGraph F1",
    "chexbert": "CheXbert",
}
"""What each score is called."""
NO_WORDNET = "unavailable: nltk's WordNet is not on this machine (python -m nltk.downloader wordnet)"
_GRAMS = 4


@dataclass(frozen=True, slots=True)
class ReportText:
    """Scores of each system, by system and name (`SCORES`), and notes to print below."""

    rows: Mapping[str, Mapping[str, Metric]]
    notes: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """Plain JSON; what could not be computed is null and carries its reason."""
        rows = {system: {name: metric.as_json() for name, metric in row.items()} for system, row in self.rows.items()}
        return {"rows": rows, "notes": list(self.notes)}


def report_text(
    predictions: Sequence[Prediction],
    clusters: Mapping[str, str],
    settings: Bootstrap,
    from_words: int,
    plug_ins: Sequence[str] = (),
) -> ReportText:
    """The scores of every system over the open questions whose gold answer has at least `from_words` words.

    Args:
        predictions: of all systems; spoilt evidence and unknown gold answers are left out.
        clusters: of each query id, resampled together.
        settings: of the intervals.
        from_words: length of the shortest gold answer that is a report.
        plug_ins: names in `PLUG_INS`.
    """
    if unknown := sorted(set(plug_ins) - set(PLUG_INS)):
        raise ValueError(f"report scores: {unknown[0]!r} is none of {', '.join(PLUG_INS)}")
    long = [p for p in ordinary(predictions) if p.answer_type is AnswerType.OPEN and len(tokens_of(p.gold or "")) >= from_words]
    rows = {system: _row(mine, clusters, settings, plug_ins) for system, mine in by_system(long).items()}
    reasons = {metric.reason: name for row in rows.values() for name, metric in row.items() if "unavailable" in metric.reason}
    notes = [f"{SCORES[name]}: {reason}" for reason, name in reasons.items()]
    if rows:
        lead = f"reports: open questions whose gold answer has {from_words} words or more"
        notes.insert(0, f"{lead}; BLEU-4 over all of them at once (13a, lower case, no smoothing), other scores averaged")
    return ReportText(rows, tuple(notes))


def bleu_4(gold: Sequence[str], answers: Sequence[str | None]) -> Statistic:
    """BLEU-4 in [0, 1] of all answers as one text (Papineni et al., 2002): equal to torchmetrics' `SacreBLEUScore`.

    Raises:
        UnavailableError: torchmetrics is not installed.
    """
    _need("torchmetrics")
    from torchmetrics.text import SacreBLEUScore

    counter, counts = SacreBLEUScore(n_gram=_GRAMS, lowercase=True), np.zeros((len(gold), 2 * _GRAMS + 2))
    for row, (reference, answer) in enumerate(zip(gold, answers, strict=True)):
        counter.reset()
        counter.update([answer or ""], [[reference]])
        lengths = [float(counter.preds_len), float(counter.target_len)]
        counts[row] = [*counter.numerator.tolist(), *counter.denominator.tolist(), *lengths]

    def statistic(weights_FN: Floats) -> Floats:
        found, possible, lengths = np.split(weights_FN @ counts, [_GRAMS, 2 * _GRAMS], axis=1)
        with np.errstate(divide="ignore", invalid="ignore"):
            log_precision_F = np.log(ratio(found, possible)).mean(axis=1)
            log_brevity_F = np.minimum(0.0, 1.0 - lengths[:, 1] / lengths[:, 0])
            score_F: Floats = np.exp(log_precision_F + log_brevity_F)
        return np.nan_to_num(score_F, nan=0.0)  # no n-gram of some length in any answer

    return statistic


def rouge_l(gold: Sequence[str], answers: Sequence[str | None]) -> Floats:
    """ROUGE-L F of each answer in [0, 1], (N,) (Lin, 2004); torchmetrics', which has rouge-score's word splitting.

    Raises:
        UnavailableError: torchmetrics is not installed.
    """
    _need("torchmetrics")
    from torchmetrics.functional.text import rouge_score

    pairs = zip(gold, answers, strict=True)
    told = [rouge_score(answer or "", reference, rouge_keys="rougeL")["rougeL_fmeasure"] for reference, answer in pairs]
    return np.array([float(value) for value in told])


class _NoSynonyms:
    """Stands for a WordNet that knows no word, so that METEOR matches words and stems alone."""

    def synsets(self, word: str) -> list[Any]:
        """None."""
        return []


def meteor(gold: Sequence[str], answers: Sequence[str | None], synonyms: bool = True) -> Floats:
    """METEOR of each answer in [0, 1], (N,) (Banerjee and Lavie, 2005); nltk's, with its weights.

    Args:
        gold, answers: reports.
        synonyms: whether WordNet's synonyms match; without them the score is lower, and another score.

    Raises:
        UnavailableError: nltk is not installed, or its WordNet is not here (it is never fetched).
    """
    _need("nltk")
    import nltk
    from nltk.translate.meteor_score import single_meteor_score

    settings: dict[str, Any] = {} if synonyms else {"wordnet": _NoSynonyms()}
    if synonyms:
        try:
            nltk.data.find("corpora/wordnet")
        except LookupError:
            raise UnavailableError(NO_WORDNET) from None
    pairs = zip(gold, answers, strict=True)
    return np.array([single_meteor_score(tokens_of(g), tokens_of(a or ""), **settings) for g, a in pairs])


def _row(
    mine: Sequence[Prediction], clusters: Mapping[str, str], settings: Bootstrap, plug_ins: Sequence[str]
) -> dict[str, Metric]:
    gold, answers = [p.gold or "" for p in mine], [p.answer for p in mine]
    groups = [clusters[p.query_id] for p in mine]
    statistics: dict[str, Callable[[], Statistic]] = {
        "bleu_4": lambda: bleu_4(gold, answers),
        "rouge_l": lambda: weighted_mean(rouge_l(gold, answers)),
        "meteor": lambda: weighted_mean(meteor(gold, answers)),
        "meteor_without_synonyms": lambda: weighted_mean(meteor(gold, answers, synonyms=False)),
        "cider_d": lambda: weighted_mean(cider_d(gold, answers)),
    }
    found: dict[str, Metric] = {}
    for name, statistic in statistics.items():
        found[name] = _metric(statistic, groups, settings)
    for name in plug_ins:
        found[name] = _metric(partial(_plugged, name, gold, answers), groups, settings)
    return found


def _plugged(name: str, gold: Sequence[str], answers: Sequence[str | None]) -> Statistic:
    return weighted_mean(PLUG_INS[name].scores(gold, answers))


def _metric(statistic: Callable[[], Statistic], groups: Sequence[str], settings: Bootstrap) -> Metric:
    try:
        return settings.metric(statistic(), groups)
    except UnavailableError as error:
        return Metric.missing(str(error), len(groups))


def _need(package: str) -> None:
    if importlib.util.find_spec(package) is None:
        extra = {"torchmetrics": "train", "nltk": "report"}[package]
        raise UnavailableError(f"unavailable: {package} is not installed (pip install 'medrag-lightning[{extra}]')")
