"""The rule-based rewriter: what it completes, what it leaves alone, and where it is wrong."""

from __future__ import annotations

import pytest

from medrag_lightning.data.rules_rewriter import RulesRewriter
from medrag_lightning.interfaces import Rewriter, RewriteTask

SEEN = (("What does the chest X-ray show?", "A left-sided pneumothorax."),)
OPENED = (("x-ray nodule rose , is it treated here?", "yes"),)


@pytest.mark.parametrize(
    ("question", "history", "rewritten"),
    [
        ("and which risk?", OPENED, "x-ray nodule rose , which risk?"),
        ("and what is its risk?", OPENED, "what is the risk of x-ray nodule rose?"),
        ("how is it\n treated?", OPENED, "how is x-ray nodule rose treated?"),
        ("what about children?", OPENED, "x-ray nodule rose , children?"),
        ("is this finding common?", OPENED, "is x-ray nodule rose common?"),
        ("is this dangerous?", OPENED, "x-ray nodule rose , is this dangerous?"),
        ("what does that mean?", OPENED, "what does x-ray nodule rose mean?"),
        ("how is it treated?", SEEN, "how is left-sided pneumothorax treated?"),
        ("its size?", (("what is seen?", "a nodule"), ("which side?", "left")), "the size of nodule?"),
        ("and its risk?", (("is it a pleural effusion?", "no, an old rib fracture"),), "the risk of old rib fracture?"),
        ("is x-ray nodule rose common?", (("ct cyst blue , is it treated?", "yes"),), "is x-ray nodule rose common?"),
        ("and is x-ray nodule rose common?", OPENED, "and is x-ray nodule rose common?"),
        ("and why?", (("is it?", "yes"),), "and why?"),
    ],
)
def test_what_is_written(question: str, history: tuple[tuple[str, str], ...], rewritten: str) -> None:
    rewriter = RulesRewriter()
    assert isinstance(rewriter, Rewriter)
    assert rewriter.rewrite([RewriteTask(question, history)]) == [rewritten]


def test_the_last_named_entity_counts_and_that_may_be_wrong() -> None:
    changed = (*OPENED, ("ct cyst blue , is it treated here?", "yes"))
    assert RulesRewriter().rewrite([RewriteTask("and which risk?", changed)]) == ["ct cyst blue , which risk?"]
    compared = (*OPENED, ("is it like ct cyst blue ?", "no"))
    assert RulesRewriter().rewrite([RewriteTask("and which risk?", compared)]) == ["ct cyst blue , which risk?"]


def test_given_names_alone_are_entities() -> None:
    rewriter = RulesRewriter(["cyst", "blue  cyst", " "])
    history = (("is the large red thing a blue cyst?", "a big red cystic thing"),)
    assert rewriter.rewrite([RewriteTask("and its risk?", history)]) == ["the risk of blue cyst?"]
    assert rewriter.rewrite([RewriteTask("and its risk?", (("a red thing?", "no"),))]) == ["and its risk?"]
    assert rewriter.fingerprint() != RulesRewriter().fingerprint()
    assert rewriter.fingerprint() == RulesRewriter(["blue cyst", "cyst"]).fingerprint()
    with pytest.raises(ValueError, match="names holds no name"):
        RulesRewriter([" "])
