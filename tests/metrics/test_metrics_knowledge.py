"""MD, KUD, KID and their kin: against the truth table, honest where nothing can be computed, paired and clustered."""

import itertools
import json
import math
import random
from dataclasses import replace

import pytest

from medrag_lightning.metrics import Bootstrap, analyse, by_system, knowledge_use, noise_curves, protocol, summarise
from medrag_lightning.metrics.knowledge import SHARES
from medrag_lightning.records import AnswerType, Noise, NoiseKind, Prediction, Regime, Variant

CHOICES = ("yes", "no", "maybe")
FEW = Bootstrap(resamples=200)
NONE = Bootstrap(resamples=0)
PARTS = ("both", "none", "reports", "documents", "other", "alone")
SHOWN = {
    "both": (Regime.RETRIEVED, None),
    "none": (Regime.NONE, None),
    "reports": (Regime.RETRIEVED, Variant.WITHOUT_DOCUMENTS),
    "documents": (Regime.RETRIEVED, Variant.WITHOUT_REPORTS),
    "other": (Regime.RETRIEVED, Variant.OTHER_IMAGE),
    "alone": (Regime.NONE, Variant.OTHER_IMAGE_ALONE),
}


def said(name, part, right, system="", need=None, wrong="no"):
    regime, variant = SHOWN[part]
    cited = ("d1",) if regime is Regime.RETRIEVED else ()
    system = system if cited else ""
    told = {"system": system, "variant": variant, "cited": cited, "need": need}
    return Prediction(name, regime, "yes" if right else wrong, "", "yes", AnswerType.CLOSED, CHOICES, **told)


def question(name, pattern, **settings):
    return [said(name, part, right, **settings) for part, right in zip(PARTS, pattern, strict=True) if right is not None]


def of(predictions, settings=NONE, clusters=None):
    return knowledge_use(predictions, clusters or {p.query_id: p.query_id for p in predictions}, settings)


def rates(predictions, system="retrieved", subset="all"):
    return {key: (rate.value.value, rate.value.n) for key, rate in of(predictions).of(system, subset).items()}


TABLE = list(itertools.product((True, False), repeat=6))
TRUTH = {  # (metric, source): (which questions it is about, which of them count)
    ("md", "both"): (lambda q: q["both"], lambda q: q["other"]),
    ("md_strict", "both"): (lambda q: q["both"] and not q["alone"], lambda q: q["other"]),
    ("kud", "reports"): (lambda q: not q["none"], lambda q: not q["reports"]),
    ("kud", "documents"): (lambda q: not q["none"], lambda q: not q["documents"]),
    ("kud", "both"): (lambda q: not q["none"], lambda q: not q["both"]),
    ("kud_worded", "reports"): (lambda q: not q["none"], lambda q: q["reports"]),
    ("kud_worded", "documents"): (lambda q: not q["none"], lambda q: q["documents"]),
    ("kud_worded", "both"): (lambda q: not q["none"], lambda q: q["both"]),
    ("kid", "reports"): (lambda q: q["none"], lambda q: not q["reports"]),
    ("kid", "documents"): (lambda q: q["none"], lambda q: not q["documents"]),
    ("kid", "both"): (lambda q: q["none"], lambda q: not q["both"]),
    ("kid", "any"): (lambda q: q["none"], lambda q: not (q["reports"] and q["documents"] and q["both"])),
    ("over_reliance", "both"): (lambda q: not q["both"], lambda q: q["none"]),
    ("copied", "both"): (lambda q: True, lambda q: q["both"] == q["other"]),
}


def test_every_single_pattern_of_the_truth_table():
    assert {(share.metric, share.source) for share in SHARES} == set(TRUTH)
    for pattern in TABLE:
        told, found = dict(zip(PARTS, pattern, strict=True)), rates(question("q", pattern))
        for key, (about, counts) in TRUTH.items():
            value, n = found[key]
            assert n == int(about(told)), (key, told)
            assert value == float(counts(told)) if n else math.isnan(value), (key, told)


def test_any_mixture_of_patterns():
    """Each pattern so often as a draw says."""
    rng = random.Random(0)
    asked = [pattern for pattern in TABLE for _ in range(rng.randrange(4))]
    found = rates([p for i, pattern in enumerate(asked) for p in question(f"q{i}", pattern)])
    for key, (about, counts) in TRUTH.items():
        named = [told for pattern in asked if about(told := dict(zip(PARTS, pattern, strict=True)))]
        assert found[key] == (pytest.approx(sum(map(counts, named)) / len(named)), len(named)), key
    for source in ("reports", "documents", "both"):
        assert found["kud", source][0] + found["kud_worded", source][0] == pytest.approx(1)
        assert found["kid", source][0] <= found["kid", "any"][0]


def test_nothing_to_count_is_none_with_the_reason_and_never_zero():
    right = [p for i in range(5) for p in question(f"q{i}", (True,) * 6)]
    told = of(right).of("retrieved")
    for key, words in {
        ("kud", "reports"): "no question that has reports is wrong without evidence",
        ("kud_worded", "both"): "no question that has evidence is wrong without evidence",
        ("md_strict", "both"): "no question that was asked again with another image is right with its own and wrong with",
        ("over_reliance", "both"): "no question that is wrong with evidence was asked without evidence",
    }.items():
        metric = told[key].value
        assert math.isnan(metric.value)
        assert metric.n == 0
        assert metric.reason.startswith(f"cannot be computed: {words}")
    records = json.loads(json.dumps(of(right).as_json(), allow_nan=False))["rates"]
    kud = next(r for r in records if (r["metric"], r["source"]) == ("kud", "both"))
    assert (kud["value"], kud["low"], kud["n"]) == (None, None, 0)
    assert (told["kid", "any"].value.value, told["md", "both"].value.value) == (0.0, 1.0)


def test_without_the_regime_none_kud_and_kid_name_the_remedy():
    made = [p for p in question("q", TABLE[0]) if p.regime is not Regime.NONE or p.variant]
    told = of(made).of("retrieved")
    assert "needs the regime `none` among data.regimes" in told["kud", "both"].value.reason
    assert "needs the regime `none` among data.regimes" in told["kid", "any"].value.reason
    assert told["md", "both"].value.n == 1


def test_a_question_counts_for_the_sources_that_it_has():
    """Questions with reports alone, with documents alone, without image, without evidence, without a gold answer."""
    made = question("r", (False, True, False, None, True, True)) + question("d", (True, False, None, False, True, True))
    made += question("i", (True, True, True, True, None, None))
    made += [replace(p, cited=()) for p in question("e", (False, True, None, None, None, None))]
    made += [replace(p, gold=None) for p in question("g", (True,) * 6)]
    made += [replace(p, gold=" ") for p in question("b", (True,) * 6)]
    found = rates(made)
    assert found["kid", "reports"] == (0.5, 2)  # r, i
    assert found["kid", "documents"] == (0.0, 1)  # i
    assert found["kid", "both"] == found["kid", "any"] == (0.5, 2)  # r, i
    assert found["kud", "documents"] == (1.0, 1)
    assert found["md", "both"] == (1.0, 1)  # d
    assert found["over_reliance", "both"] == (1.0, 1)  # r, not e, which had no evidence to rely on
    assert of(made).notes == (
        "retrieved: 3 of 4 questions have evidence; asked again: 2 with another image, 2 with reports alone, "
        "2 with documents alone",
    )


def test_invalid_answers_are_wrong_and_copy_nothing():
    made = [replace(p, answer=None) for p in question("q", (False,) * 6)]
    found = rates(made)
    assert found["kud", "both"] == (1.0, 1)
    assert found["copied", "both"][1] == 0
    mute = question("q", (True,) * 4 + (False, False))
    mute = [replace(p, answer=None) if p.variant is Variant.OTHER_IMAGE else p for p in mute]
    assert rates(mute)["copied", "both"] == (0.0, 1)
    same = [replace(p, answer=" NO") if p.variant is Variant.OTHER_IMAGE else p for p in question("q", (False,) * 6)]
    assert rates(same)["copied", "both"] == (1.0, 1)  # wrong both times, and the same
    other = [replace(p, answer="maybe") if p.variant is Variant.OTHER_IMAGE else p for p in same]
    assert rates(other)["copied", "both"] == (0.0, 1)


def test_open_answers_are_judged_as_in_the_other_tables_and_stand_apart():
    words = {"yes": "Left lobe.", "no": "x"}
    opened = [
        replace(p, answer_type=AnswerType.OPEN, choices=(), gold="the left lobe", answer=words[p.answer])
        for p in question("o", (True, False, True, False, True, False))
    ]
    made = [*opened, *question("c", (False,) * 6)]
    assert rates(made, subset="open")["md", "both"] == (1.0, 1)
    assert rates(made, subset="open")["kud", "both"] == (0.0, 1)
    assert rates(made, subset="closed")["kud", "both"] == (1.0, 1)
    assert rates(made)["kud", "both"] == (0.5, 2)
    assert "closed" not in {rate.subset for rate in of(question("c", (False,) * 6)).rates}


def test_needs_stand_apart():
    made = question("a", (True,) * 6, need="image") + question("b", (True,) * 4 + (False, False), need="report")
    assert rates(made)["md", "both"] == (0.5, 2)
    assert rates(made, subset="need image")["md", "both"] == (1.0, 1)
    assert rates(made, subset="need report")["md", "both"] == (0.0, 1)


def drawn(chances, n=300, system="", seed=0):
    """Answers right by chance; `chances` by part."""
    rng = random.Random(seed)
    return [p for i in range(n) for p in question(f"q{i}", [rng.random() < chances[part] for part in PARTS], system=system)]


CHANCES = {"both": 0.8, "none": 0.5, "reports": 0.7, "documents": 0.6, "other": 0.6, "alone": 0.4}


def test_intervals_cover_and_patients_are_drawn_together():
    made = drawn(CHANCES)
    alone = of(made, FEW).of("retrieved")
    for key, truth in {("md", "both"): 0.6, ("kud", "reports"): 0.3, ("kid", "both"): 0.2}.items():
        metric = alone[key].value
        assert metric.low < truth < metric.high, key
        assert metric.high - metric.low == pytest.approx(4 * (truth * (1 - truth) / metric.n) ** 0.5, rel=0.25)
    four = [replace(p, query_id=f"{p.query_id}-{i}") for p in made for i in range(4)]
    groups = {p.query_id: p.query_id.split("-")[0] for p in four}
    one, together = alone["md", "both"].value, of(four, FEW, groups).of("retrieved")["md", "both"].value
    assert together.value == one.value
    assert together.high - together.low == pytest.approx(one.high - one.low, rel=0.05)


def test_rivals_are_compared_in_pairs_and_share_what_no_evidence_says():
    own = drawn(CHANCES)
    better = [p for p in drawn(CHANCES | {"other": 0.2}, system="hkpt") if p.system]
    use = of([*own, *better], FEW)
    assert {rate.system for rate in use.rates} == {"retrieved", "hkpt"}
    gap = use.of("hkpt")["md", "both"].reference_minus
    assert gap.low < 0.4 < gap.high
    assert gap.low > 0
    kud = use.of("hkpt")["kud", "both"]
    assert (kud.reference_minus.value, kud.reference_minus.low, kud.reference_minus.high) == (0, 0, 0)  # the same answers
    assert use.of("retrieved")["md", "both"].reference_minus is None
    record = next(r.as_record() for r in use.rates if (r.system, r.metric) == ("hkpt", "md"))
    assert {"retrieved_minus", "retrieved_minus_low", "retrieved_minus_high", "lower_is_better", "n"} < set(record)


def test_variants_are_in_no_ordinary_row_and_in_no_curve():
    made = drawn(CHANCES, 60)
    plain = [p for p in made if p.variant is None]
    noisy = [replace(p, noise=Noise(NoiseKind.IRRELEVANT, 0.5)) for p in plain if p.regime is Regime.RETRIEVED]
    groups = {p.query_id: p.query_id for p in made}
    assert by_system(made) == by_system(plain)
    assert summarise(made, settings=FEW) == summarise(plain, settings=FEW)
    assert analyse(made, settings=FEW) == analyse(plain, settings=FEW)
    assert protocol(made, groups, FEW) == protocol(plain, groups, FEW)
    assert noise_curves([*made, *noisy], groups, FEW, "retrieved") == noise_curves([*plain, *noisy], groups, FEW, "retrieved")
    assert of([*made, *noisy], FEW) == of(made, FEW)


def test_what_was_not_asked_again_has_no_row_and_faults_are_named():
    made = drawn(CHANCES, 5)
    assert of([p for p in made if p.variant is None]).rates == ()
    lone = of([p for p in made if p.variant is not None])
    assert lone.rates == ()
    assert lone.notes == ("retrieved: nothing can be told, because its ordinary predictions are not there",)
    with pytest.raises(ValueError, match="'retrieved' answers query 'q0' more than once as without_documents"):
        of([*made, made[2]])
