"""The rules: over all outcome patterns, exactly the pairs of the published tables, which are written out here a second time."""

from collections import Counter
from itertools import product

import pytest

from medrag_lightning.data.pair_rules import Outcomes, Said, asked, kinds_of, pairs_of
from medrag_lightning.records import Condition, ImageShown, Knowledge, PairKind, Preference, PreferenceSide

K = ("r", "t")
PARTS = {
    "full": Condition(K), "bare": Condition(), "without_reports": Condition(("t",)), "without_documents": Condition(("r",)),
    "other": Condition(K, ImageShown.OTHER, "v"), "other_alone": Condition((), ImageShown.OTHER, "v"),
}  # fmt: skip
BOTH = frozenset({Knowledge.REPORTS, Knowledge.DOCUMENTS})
WRONG = {part: f"wrong by {part}" for part in PARTS}


def outcomes(right, kinds=BOTH, conditions=PARTS, **changes):
    """A scripted reader: right in the parts that `right` names, wrong in its own way in each of the others."""
    said = {p: Said(c, "y" if p in right else WRONG[p], p in right) for p, c in conditions.items()}
    return Outcomes(**{"gold": "y", "kinds": kinds, **said, **changes})


def patterns(parts):
    for bits in product((True, False), repeat=len(parts)):
        yield frozenset(part for part, bit in zip(parts, bits, strict=True) if bit)


def told(pairs):
    return Counter((str(p.kind), p.knowledge and str(p.knowledge), p.chosen, p.rejected) for p in pairs)


# The tables, as sentences: (kind, k, right, wrong, condition of the rejected side, its answer).
HKPT = [
    ("knowledge_utilisation", "reports", {"full"}, {"without_reports"}, "full", WRONG["without_reports"]),
    ("knowledge_utilisation", "documents", {"full"}, {"without_documents"}, "full", WRONG["without_documents"]),
    ("knowledge_utilisation", "both", {"full"}, {"bare"}, "full", WRONG["bare"]),
    ("knowledge_robustness", "reports", {"without_reports"}, {"full"}, "full", WRONG["full"]),
    ("knowledge_robustness", "documents", {"without_documents"}, {"full"}, "full", WRONG["full"]),
    ("knowledge_robustness", "both", {"bare"}, {"full"}, "full", WRONG["full"]),
]
CMA = ("cross_modality", None, {"full", "other"}, set(), "other", "y")
TABLES = {
    "hkpt_v1": [CMA, *HKPT],
    "hkpt_v2": [("cross_modality", None, {"full", "other"}, {"other_alone"}, "other", "y"), *HKPT],
    "rag_pt": [CMA, HKPT[2], HKPT[5]],
    "kb_pt": [HKPT[5]],
}


def expected(rules, right, kinds=BOTH):
    rows = []
    for kind, k, needs, lacks, shown, answer in TABLES[rules]:
        held = k is None or (bool(kinds) if k == "both" else Knowledge(k) in kinds)
        if held and needs <= right and not lacks & right:
            rows.append((kind, k, (PARTS["full"], "y"), (PARTS[shown], answer)))
    return Counter(rows)


@pytest.mark.parametrize(("rules", "reads"), [("hkpt_v1", 5), ("hkpt_v2", 6), ("rag_pt", 3), ("kb_pt", 2)])
def test_all_patterns_give_exactly_the_pairs_of_the_table(rules, reads):
    parts = asked(rules)
    assert len(parts) == reads  # H33: what an evidence set costs
    seen = Counter()
    for right in patterns(parts):
        conditions = {part: PARTS[part] for part in parts}
        found = pairs_of(rules, outcomes(right, conditions=conditions))
        assert told(found) == expected(rules, right), sorted(right)
        seen.update(str(pair.kind) for pair in found)
        kinds = {pair.kind for pair in found}
        assert PairKind.ROBUSTNESS not in kinds or len(kinds) == 1  # right and wrong with K cannot both be
    assert set(seen) == set(map(str, kinds_of(rules)))


def test_all_patterns_of_all_rules_do_not_depend_on_what_they_do_not_ask():
    for rules in TABLES:
        for right in patterns(PARTS):
            assert told(pairs_of(rules, outcomes(right))) == expected(rules, right)


@pytest.mark.parametrize("rules", TABLES)
def test_evidence_of_one_kind_gives_pairs_about_that_kind(rules):
    for kinds in (frozenset({Knowledge.REPORTS}), frozenset({Knowledge.DOCUMENTS})):
        for right in patterns(PARTS):
            assert told(pairs_of(rules, outcomes(right, kinds))) == expected(rules, right, kinds)


@pytest.mark.parametrize("rules", TABLES)
def test_no_evidence_gives_pairs_about_the_image_alone(rules):
    empty = {part: Condition((), c.image, c.image_of) for part, c in PARTS.items()}
    for full, other, alone in product((True, False), repeat=3):
        right = {p for p in PARTS if (other if p == "other" else alone if p == "other_alone" else full)}
        found = pairs_of(rules, outcomes(right, frozenset(), empty))
        image_pairs = full and other and rules != "kb_pt" and not (rules == "hkpt_v2" and alone)
        assert [pair.kind for pair in found] == [PairKind.CROSS_MODALITY] * image_pairs


@pytest.mark.parametrize("rules", TABLES)
def test_without_another_image_there_is_no_cross_modality(rules):
    for right in patterns(PARTS):
        found = pairs_of(rules, outcomes(right, other=None, other_alone=None))
        wanted = Counter({row: n for row, n in expected(rules, right).items() if row[0] != "cross_modality"})
        assert told(found) == wanted


def test_what_rag_pt_and_hkpt_reject_differs_in_words_for_open_answers():
    said = outcomes(set(PARTS) - {"other_alone"}, other=Said(PARTS["other"], "y, in other words", True))
    for rules, rejected in (("hkpt_v1", "y, in other words"), ("hkpt_v2", "y, in other words"), ("rag_pt", "y")):
        (pair,) = pairs_of(rules, said)
        assert (pair.chosen, pair.rejected) == ((PARTS["full"], "y"), (PARTS["other"], rejected))


def test_no_pattern_makes_a_pair_with_the_same_on_both_sides():
    for rules in TABLES:
        for right in patterns(PARTS):
            for pair in pairs_of(rules, outcomes(right)):
                Preference("p", "q", pair.kind, pair.knowledge, PreferenceSide(*pair.chosen), PreferenceSide(*pair.rejected))
    with pytest.raises(ValueError, match="its margin is zero by construction"):
        Preference("p", "q", PairKind.CROSS_MODALITY, None, *[PreferenceSide(PARTS["full"], "y")] * 2)
