"""Pieces of the report: escaping, effects of removal in closed form, curves."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from medrag_lightning.handoff.report.cells import change, percent
from medrag_lightning.handoff.report.chart import Axis, Plot
from medrag_lightning.handoff.report.markup import Html, joined, table, tag, text
from medrag_lightning.handoff.report.names import Names
from medrag_lightning.handoff.report.removal import fused_again, remove_each
from medrag_lightning.handoff.report.run_files import read_curves
from medrag_lightning.handoff.report.sections.curves import thinned
from medrag_lightning.handoff.report.sections.metrics import without_paths
from medrag_lightning.mixture import Fusion
from medrag_lightning.records import AnswerType, Channel, Document, Prediction, Regime


def test_what_is_not_markup_is_escaped():
    assert tag("b", "<i>&", title='"x"') == '<b title="&quot;x&quot;">&lt;i&gt;&amp;</b>'
    assert tag("b", tag("i", "x"), None, 3) == "<b><i>x</i>3</b>"
    assert tag("p", tag("i") + "<x>") == "<p>&lt;i&gt;&lt;/i&gt;&lt;x&gt;</p>", "a sum is plain text again"
    assert not isinstance(Html("a") + "b", Html)
    assert text("a\x00b\ud800c\u202ed\n") == "a\N{REPLACEMENT CHARACTER}b\N{REPLACEMENT CHARACTER}c\N{REPLACEMENT CHARACTER}d\n"
    assert joined(["<", Html("<b>")]) == "&lt;<b>"
    assert "<td>&lt;b&gt;</td>" in table(["a", "b"], [["x", "<b>"]])


def prediction(**changes):
    rows = np.log(np.array([[0.9, 0.1], [0.2, 0.8], [0.5, 0.5]]))
    scores, channels = (0.6, 0.5, 0.4), (Channel.IMAGE_TO_IMAGE, Channel.IMAGE_TO_TEXT, Channel.IMAGE_TO_IMAGE)
    weights = Fusion().weights(scores, [str(c) for c in channels])
    mixed = Fusion().closed(rows, weights)
    made = Prediction(
        "q", Regime.RETRIEVED, "yes", "yes", "no", AnswerType.CLOSED, ("yes", "no"), tuple(mixed.tolist()), ("a", "b", "c"),
        tuple(weights.tolist()), scores=scores, channels=channels, candidate_logp_nats=tuple(map(tuple, rows.tolist())),
        candidate_answers=("yes", "no", "yes"),
    )  # fmt: skip
    return replace(made, **changes)


def test_removal_is_what_the_others_would_have_answered():
    p = prediction()
    first, second, third = remove_each(p, Fusion())
    share = math.exp(0.6 / 0.1) / (math.exp(0.6 / 0.1) + math.exp(0.4 / 0.1)) / 2
    with_all = 0.9 * share + 0.2 * 0.5 + 0.5 * (0.5 - share)
    assert first.answer_change_nats == pytest.approx(math.log((0.2 + 0.5) / 2 / with_all))
    assert first.gold_change_nats == pytest.approx(math.log((0.8 + 0.5) / 2 / (1 - with_all)))
    assert second.answer == "yes"
    assert first.answer == "no"
    assert second.gold_change_nats < 0 < second.answer_change_nats
    assert third.answer_change_nats == pytest.approx(math.log((0.9 + 0.2) / 2 / with_all))
    alone = prediction(cited=("a",), weights=(1.0,), scores=(0.6,), channels=p.channels[:1])
    assert remove_each(alone, Fusion()) == ()


def test_removal_that_cannot_be_exact_is_refused():
    with pytest.raises(ValueError, match="mixed by the fusion settings"):
        remove_each(prediction(), Fusion(temperature=1.0))
    with pytest.raises(ValueError, match="read one by one"):
        remove_each(prediction(candidate_logp_nats=(), weights=()), Fusion())


def test_removal_from_an_open_answer_is_by_token():
    rows = ((-1.0,), (-3.0,))
    weights = Fusion().weights((0.5, 0.5), ["given", "given"])
    gold = math.log(0.5 * math.exp(-2.0) + 0.5 * math.exp(-6.0)) / 2
    p = prediction(
        answer_type=AnswerType.OPEN, choices=(), logp_nats=(), cited=("a", "b"), weights=tuple(weights.tolist()),
        scores=(0.5, 0.5),
        channels=(Channel.GIVEN, Channel.GIVEN), candidate_logp_nats=rows, gold_tokens=2, gold_logp_nats=gold, gold="two words",
    )  # fmt: skip
    first, second = remove_each(p, Fusion())
    assert first.gold_change_nats == pytest.approx(-3.0 - gold)
    assert second.gold_change_nats == pytest.approx(-1.0 - gold)
    assert first.answer_change_nats is None


def test_mixing_again_by_other_settings():
    p = prediction()
    assert fused_again(p, Fusion()) == p
    other = fused_again(p, Fusion(head_weights={"image_to_image": 0.0, "image_to_text": 1.0}))
    assert np.exp(other.logp_nats) == pytest.approx([0.2, 0.8])
    assert other.answer == "no"


def test_texts_lose_the_ids_of_their_owner():
    names = Names(b"key")
    document = Document("doc-17", "text", patient_id="P00123", study_id="12")
    told = names.without_ids("p00123 in bed 12, see doc-17; XP00123", document, 100)
    assert told == "[hidden] in bed 12, see [hidden]; XP00123"
    named = Document("d", "text", patient_id="ward:Jane Doe")
    assert names.without_ids("ward:Jane Doe is JANE DOE", named, 100) == "[hidden] is [hidden]"
    assert names.without_ids("a" * 50, None, 10) == "a" * 10 + " …"
    assert names.query("x") != names.document("x")
    assert names.query("x") == Names(b"key").query("x") != Names(b"other").query("x")
    assert Names(b"key", show_ids=True).query("x") == f"{names.query('x')} = x"


def test_curves_keep_their_shape(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text("epoch,step,train/loss_step,val/loss\n0,1,2.0,\n0,2,nan,1.0\n0,3,1.5,\n")
    assert read_curves(path) == {"train/loss": [(1.0, 2.0), (3.0, 1.5)], "val/loss": [(2.0, 1.0)]}
    path.write_text("epoch,step,a\n0,1,x\n")
    with pytest.raises(ValueError, match=r"metrics\.csv:2"):
        read_curves(path)
    long = [(float(k), 2.0 * k) for k in range(1000)]
    short = thinned(long, 100)
    assert len(short) == 100
    assert all(value == pytest.approx(2 * step) for step, value in short)


def test_a_plot_draws_what_it_is_given():
    plot = Plot("<title>", Axis("x", 0, 10), Axis("y", 0, 1))
    plot.line([(0, 0.0), (5, math.nan), (6, 0.5), (10, 1.0)], 0)
    plot.dot(10, 1.0, 1, "a & b")
    drawn = plot.svg()
    assert drawn.count("<polyline") == 2, "what is not finite breaks a line"
    assert "&lt;title&gt;" in drawn
    assert "a &amp; b" in drawn
    assert "408.0,24.0" in drawn, "the upper right corner of the frame"


def test_numbers_for_people():
    assert percent({"value": 0.5, "low": 0.25, "high": 0.75}) == "50.0 [25.0, 75.0]"
    assert percent({"value": None}) == percent(None) == "–"
    assert change(-0.001) == "0.00"
    assert change(1.5) == "+1.50"
    assert (
        without_paths("add -c runs/SURNAME/tune/fusion.yaml; choices one/two/three")
        == "add -c fusion.yaml; choices one/two/three"
    )
