"""Fusion settings are checked, and tuned by likelihood to what the planted world rewards."""

import math

import numpy as np
import pytest

from medrag_lightning.mixture import Fusion, fusion_nll, tune_fusion
from medrag_lightning.records import AnswerType, Channel, Prediction, Regime

HEADS = (Channel.IMAGE_TO_IMAGE, Channel.IMAGE_TO_IMAGE, Channel.IMAGE_TO_TEXT, Channel.IMAGE_TO_TEXT)


def predictions(count=120, good=Channel.IMAGE_TO_TEXT, kind=AnswerType.CLOSED, **changes):
    """Candidates of the head `good` raise the gold answer, those of the other do not; scores tell nothing."""
    rng = np.random.default_rng(0)
    made = []
    for n in range(count):
        scores = tuple(rng.uniform(0.2, 0.9, 4).tolist())
        right = [rng.uniform(0.6, 0.9) if head is good else rng.uniform(0.2, 0.5) for head in HEADS]
        if kind is AnswerType.CLOSED:
            rows = tuple((math.log(p), math.log(1 - p)) for p in right)
            more = {"choices": ("yes", "no")}
        else:
            rows, more = tuple((math.log(p) / 3,) for p in right), {"gold_tokens": 3}
        made.append(
            Prediction(f"q{n}", Regime.RETRIEVED, "yes", "yes", "yes", kind, scores=scores, channels=HEADS,
                       weights=(0.25,) * 4, candidate_logp_nats=rows, **more, **changes)
        )  # fmt: skip
    return made


@pytest.mark.parametrize("kind", list(AnswerType))
def test_the_head_that_helps_gets_the_weight(kind):
    tuned = tune_fusion(predictions(kind=kind), Fusion())
    assert tuned.queries == 120
    assert tuned.fusion.head_weights["image_to_text"] > 0.95
    assert tuned.nll_nats < tuned.before_nats
    assert tuned.nll_nats == pytest.approx(fusion_nll(predictions(kind=kind), tuned.fusion))


def test_head_weights_are_the_best_of_a_fine_grid():
    mixed = [*predictions(70), *predictions(50, good=Channel.IMAGE_TO_IMAGE)]
    tuned = tune_fusion(mixed, Fusion(), temperatures=(0.5,))
    grid = [Fusion(temperature=0.5, head_weights={"image_to_image": w, "image_to_text": 1 - w}) for w in np.linspace(0, 1, 101)]
    assert tuned.nll_nats <= min(fusion_nll(mixed, fusion) for fusion in grid) + 1e-6


def test_the_temperature_follows_how_far_scores_can_be_trusted():
    flat = tune_fusion([p for p in predictions() if max(p.scores) > 0], Fusion(normalisation="joint_softmax"))
    assert flat.fusion.head_weights is None
    telling = []
    for p in predictions():
        scores = tuple(0.9 if row[0] > math.log(0.55) else 0.1 for row in p.candidate_logp_nats)
        telling.append(Prediction(**{name: getattr(p, name) for name in p.__slots__} | {"scores": scores}))
    sharp = tune_fusion(telling, Fusion(normalisation="joint_softmax", temperature=1.0))
    assert sharp.fusion.temperature < flat.fusion.temperature


def test_jomeds_mode_is_tuned_by_temperature_alone():
    tuned = tune_fusion(predictions(), Fusion("logit_mixture", "divide_by_max", 1.0))
    assert tuned.fusion == Fusion("logit_mixture", "divide_by_max", tuned.fusion.temperature)


def test_without_mixtures_or_gold_answers_nothing_is_tuned():
    assert tune_fusion([], Fusion()) is None
    assert tune_fusion(predictions(3, system="rival"), Fusion()) is None
    bare = [Prediction("q", Regime.RETRIEVED, "yes", "yes", "yes", AnswerType.CLOSED, ("yes", "no"))]
    assert tune_fusion(bare, Fusion()) is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": 0.0}, "must be positive, got 0"),
        ({"temperature": float("inf")}, "must be positive, got inf"),
        ({"head_weights": {"image": 1.0}}, "'image', which is no channel"),
        ({"head_weights": {"image_to_text": -1.0}}, "must be 0 or more, got -1"),
        ({"head_weights": {"image_to_text": 1.0}, "normalisation": "joint_softmax"}, "would be ignored"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Fusion(**settings)
