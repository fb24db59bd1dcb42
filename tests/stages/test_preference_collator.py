"""The collator, and the loss of pairs whose sides differ, worked out by hand."""

import math
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from preference_world import reader

from medrag_lightning.batches import Example, PreferenceExample
from medrag_lightning.losses import weighted_mean
from medrag_lightning.prompts import PromptTemplate
from medrag_lightning.reading.raft_collator import RaftCollator
from medrag_lightning.records import (
    Candidate,
    Channel,
    Condition,
    Document,
    ImageShown,
    Knowledge,
    PairKind,
    Preference,
    PreferenceSide,
    Query,
    Regime,
)
from medrag_lightning.stages.preference_checks import BlindnessWatch, refuse_other_reference, refuse_same_sides
from medrag_lightning.stages.preference_collator import PreferenceCollator, same_for_reader
from medrag_lightning.stages.preference_log import means_over_processes, pair_numbers
from medrag_lightning.stages.preference_objective import PreferenceLoss
from medrag_lightning.stages.reader_preference import ReaderPreference

QUERY = Query("q", "which colour?", answer="red")
REPORT, ARTICLE = Document("r", "it is red", patient_id="p"), Document("a", "things have colours")
BOTH, ALONE = Condition(("r", "a")), Condition(("a",))
OTHER = replace(BOTH, image=ImageShown.OTHER, image_of="z")
RED, BLUE = (Image.fromarray(np.full((32, 32, 3), value, np.uint8)) for value in (200, 40))
DOCUMENTS = {"r": REPORT, "a": ARTICLE}
SHOWN = {
    condition: Example(
        QUERY,
        Regime.RETRIEVED,
        tuple(Candidate(DOCUMENTS[name], 0.0, Channel.GIVEN) for name in condition.evidence_ids),
        BLUE if condition is OTHER else RED,
        tuple(None for _ in condition.evidence_ids),
        condition=condition,
    )
    for condition in (BOTH, OTHER, ALONE)
}


def pair(name, kind, chosen, rejected, weight=1.0, stored=(None, None)):
    sides = [PreferenceSide(*side, reference_nats=nats) for side, nats in zip((chosen, rejected), stored, strict=True)]
    about = None if kind is PairKind.CROSS_MODALITY else Knowledge.REPORTS
    made = Preference(name, "q", kind, about, *sides, weight)
    return PreferenceExample(made, SHOWN[made.chosen.condition], SHOWN[made.rejected.condition])


LOOK = pair("look", PairKind.CROSS_MODALITY, (BOTH, "red"), (OTHER, "red"), stored=(-1.5, -2.5))
USE = pair("use", PairKind.UTILISATION, (BOTH, "red"), (BOTH, "blue"), weight=3.0)
APART = pair("apart", PairKind.ROBUSTNESS, (BOTH, "red"), (ALONE, "blue"))
PAIRS = [LOOK, USE, APART]


@pytest.fixture(scope="module")
def collate():
    made = reader()
    made.prepare(["which colour? background: it is red things have colours red blue"])
    return PreferenceCollator(made.processor, PromptTemplate())


def test_each_prompt_image_and_answer_stands_once(collate):
    batch = collate(PAIRS)
    assert len(batch) == 3
    assert len(batch.prompts.ids_PT) == 3, "with both, with the other image, with the article alone"
    assert len(batch.prompts.image_keys) == 2
    assert batch.rows.prompt_of_row_R.tolist() == [0, 0, 1, 2], "red and blue, red, blue"
    assert batch.chosen_B[0] == batch.chosen_B[1] == batch.chosen_B[2]
    assert len({*batch.rejected_B.tolist()}) == 3
    assert batch.weight_B.tolist() == [1, 3, 1]
    assert batch.reference_B2[0].tolist() == [-1.5, -2.5]
    assert bool(batch.reference_B2[1:].isnan().all())
    assert batch.token_count == int(batch.prompts.mask_PT.sum() + batch.rows.mask_RL.sum())


def test_rows_are_sorted_by_prompt_and_say_what_the_pairs_say(collate):
    batch = collate(PAIRS[::-1])
    processor = collate.processor
    assert sorted(batch.rows.prompt_of_row_R.tolist()) == batch.rows.prompt_of_row_R.tolist()
    for one, chosen, rejected in zip(batch.pairs, batch.chosen_B, batch.rejected_B, strict=True):
        for side, row in ((one.chosen, chosen), (one.rejected, rejected)):
            assert processor.decode(batch.rows.ids_RL[row][batch.rows.mask_RL[row]].tolist()) == side.answer
            words = processor.tokenizer.decode(batch.prompts.ids_PT[batch.rows.prompt_of_row_R[row]].tolist())
            assert ("it is red" in words) == ("r" in side.condition.evidence_ids)


def test_prompts_are_those_that_a_reader_was_trained_with(collate):
    batch = collate([USE])
    plain = collate.processor.encode_prompts([PromptTemplate().build(SHOWN[BOTH])])
    assert torch.equal(batch.prompts.ids_PT, plain.ids_PT)
    assert torch.equal(batch.prompts.vision["pixel_values"], plain.vision["pixel_values"])


def test_prompts_of_one_query_and_evidence_are_one_pack(collate):
    other = replace(QUERY, id="other")
    also = replace(USE.pair, id="also", query_id="other")
    apart = PreferenceExample(also, *(replace(SHOWN[BOTH], query=other),) * 2)
    assert collate([*PAIRS, apart]).prompts.pack_of_prompt == (0, 0, 0, 1)


def test_an_answer_is_never_cut(collate):
    """P14: however long it is, every token of it is scored, the end of turn too."""
    words = " ".join(["red"] * 400)
    long = pair("long", PairKind.UTILISATION, (BOTH, words), (BOTH, "blue"))
    batch = collate([long])
    assert batch.rows.mask_RL.sum(1).tolist() == [len(ids) for ids in collate.processor.encode_answers(sorted([words, "blue"]))]


def test_sides_that_the_reader_cannot_tell_apart_are_found(collate):
    twin = replace(LOOK, rejected=replace(SHOWN[OTHER], query_image=RED.copy()))
    assert same_for_reader(collate([LOOK, USE, APART])) == [False, False, False]
    assert same_for_reader(collate([twin, USE])) == [True, False]
    refuse_same_sides(collate([LOOK, USE]))
    with pytest.raises(ValueError, match="'cross_modality' would train nothing"):
        refuse_same_sides(collate([twin, USE]))


def test_a_stored_reference_is_compared_with_the_live_one(collate):
    batch = collate(PAIRS)
    live = torch.tensor([[-1.5, -2.504], [-9.0, -9.0], [-9.0, -9.0]])
    assert refuse_other_reference(batch, live, 0.01) == pytest.approx(0.004, abs=1e-6)
    with pytest.raises(ValueError, match=r"'look', rejected answer 'red': stored -2.500000 nats.*-2.504000"):
        refuse_other_reference(batch, live, 0.001)


def test_blindness_is_told_by_log_probabilities():
    watch, device = BlindnessWatch(), torch.device("cpu")
    assert watch.verdict(1, device) is None, "nothing was seen"
    watch.observe([LOOK.pair, USE.pair], torch.tensor([[-3.0, -3.0], [-3.0, -4.0]]))
    assert "does not see" in watch.verdict(1, device)
    watch.observe([LOOK.pair], torch.tensor([[-3.0, -3.001]]))
    assert watch.verdict(1, device) is None


class TwoAnswers(torch.nn.Module):
    """A reader that knows two answers, by one weight for each prompt: log p(red) = log sigma(weight), blue is the rest."""

    def __init__(self, now, before) -> None:
        super().__init__()
        self.now, self.before = torch.nn.Parameter(torch.tensor(now)), torch.tensor(before)
        self.tuned = True

    def token_logp(self, prompts, rows):
        weight_P = self.now if self.tuned else self.before
        red_R = torch.tensor([-1.0, 1.0, 1.0, -1.0])  # blue and red with both, red with the other image, blue with the article
        return torch.nn.functional.logsigmoid(red_R * weight_P[rows.prompt_of_row_R])[:, None]

    @contextmanager
    def reference(self):
        self.tuned = False
        with torch.no_grad():
            yield
        self.tuned = True


def log_sigmoid(x):
    return -math.log(1 + math.exp(-x))


def test_pairs_with_an_input_of_their_own_on_each_side_by_hand(collate):
    """H24: image, answer, or evidence and answer differ; each side's log-probability is that of its own prompt."""
    batch, new, old = collate(PAIRS), (1.0, 0.5, -0.25), (0.2, -0.4, 0.0)
    assert [collate.processor.decode(ids) for ids in batch.rows.ids_RL.tolist()] == ["blue", "red", "red", "blue"]
    module = ReaderPreference(TwoAnswers(new, old), lambda parameters: None, loss=PreferenceLoss(beta=0.5))
    live = module._reference(batch, lacking=True)
    policy = module._policy(batch)
    expected = [[log_sigmoid(new[0]), log_sigmoid(new[1])], [log_sigmoid(new[0]), log_sigmoid(-new[0])]]
    expected.append([log_sigmoid(new[0]), log_sigmoid(-new[2])])
    before = [[-1.5, -2.5], [log_sigmoid(old[0]), log_sigmoid(-old[0])], [log_sigmoid(old[0]), log_sigmoid(-old[2])]]
    torch.testing.assert_close(policy, torch.tensor(expected))
    torch.testing.assert_close(live, torch.tensor(before))
    margins = [p[0] - r[0] - p[1] + r[1] for p, r in zip(expected, before, strict=True)]
    loss = weighted_mean(module.loss.values(policy, live, torch.ones(3, 2)), batch.weight_B)
    by_hand = sum(w * -log_sigmoid(0.5 * m) for w, m in zip((1, 3, 1), margins, strict=True)) / 5
    assert loss.item() == pytest.approx(by_hand, rel=1e-6)
    loss.backward()
    push = [w / 5 * -0.5 / (1 + math.exp(0.5 * m)) for w, m in zip((1, 3, 1), margins, strict=True)]
    down = [1 / (1 + math.exp(x)) for x in new]  # d log sigma(x) / dx = sigma(-x)
    gradient = [
        push[0] * down[0] + push[1] * (down[0] + (1 - down[0])) + push[2] * down[0],
        -push[0] * down[1],
        push[2] * (1 - down[2]),
    ]
    assert module.reader.now.grad.tolist() == pytest.approx(gradient, rel=1e-5)


def test_numbers_are_told_by_kind(collate):
    policy, reference = torch.tensor([[-1.0, -3.0], [-2.0, -2.0]]), torch.tensor([[-1.5, -2.5], [-2.0, -2.0]])
    numbers = means_over_processes(pair_numbers([LOOK.pair, USE.pair], policy, reference), 1)
    assert numbers["cross_modality_margin"] == pytest.approx(1.0)
    assert numbers["cross_modality_chosen_gain"] == pytest.approx(0.5)
    assert numbers["cross_modality_rejected_gain"] == pytest.approx(-0.5)
    assert numbers["cross_modality_chosen_logp"] == -1
    assert numbers["knowledge_utilisation_accuracy"] == 0.5, "neither is likelier"
    assert numbers["margin"] == pytest.approx(0.5)
    assert not any(name.startswith("knowledge_robustness") for name in numbers)


def test_a_prompt_that_is_too_long_loses_evidence_as_in_the_score_table():
    made = reader()
    made.prepare(["which colour?", "background: it is red", "things have colours"])
    whole = PreferenceCollator(made.processor, PromptTemplate())
    sides = ((BOTH, "red"), (ALONE, "blue"))
    one = pair("x", PairKind.UTILISATION, *sides)
    longest = int(whole([one]).prompts.mask_PT.sum(1).max())
    short = PreferenceCollator(made.processor, PromptTemplate(max_prompt_tokens=longest - 1))([one])
    lengths = short.prompts.mask_PT.sum(1).tolist()
    assert max(lengths) < longest
    first = PromptTemplate().build(replace(SHOWN[BOTH], candidates=SHOWN[BOTH].candidates[:1]), [0])
    assert lengths[0] == made.processor.prompt_length(first)  # the report alone: the article ranks lower
    table = RaftCollator(made.processor, PromptTemplate(max_prompt_tokens=longest - 1), False, training=False)([SHOWN[BOTH]])
    assert int(table.parts[0].prompts.mask_PT.sum()) == lengths[0]
