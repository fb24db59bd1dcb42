"""The judge against known documents: an injected error comes out as it went in (H14)."""

from dataclasses import replace

import numpy as np
import pytest
from exploration_world import CORPORA, Library, Scripted, Shelf, ground, questions, reply

from medrag_lightning.data.exploration.exploring import explore_or_read
from medrag_lightning.data.exploration.plan import ExplorationPlan
from medrag_lightning.metrics import Bootstrap, agreement

COUNT = 150


class Erring(Scripted):
    """Says whether a relevant document was found, and the opposite with probability `error`; counts how often."""

    error, flipped = 0.0, 0

    def verdict(self, task):
        right = bool({document.id for document in task.documents} & set(task.query.relevant_ids))
        drawn = np.random.default_rng([ord(letter) for letter in f"{task.query.id} {task.corpus} {task.words}"]).random()
        self.flipped += drawn < self.error
        return "it does: yes" if right != (drawn < self.error) else "it does not: no"


@pytest.mark.parametrize("error", [0.0, 0.05, 0.16, 0.3, 0.5, 1.0])
def test_the_report_counts_every_injected_error(tmp_path, error):
    """Searches of which one in two found the relevant document."""
    names = [f"q{n}" for n in range(COUNT)]
    asked = [replace(q, relevant_ids=(f"wiki: good {q.id} (0)", f"research: good {q.id} (1)")) for q in questions(names)]
    expert = Erring({name: [reply(research=[f"good {name}", "bad"], wiki=[f"good {name}", "bad"])] for name in names})
    expert.error = error
    source = Library({name: Shelf(name, top=3) for name in CORPORA})
    plan = ExplorationPlan(expert, str(tmp_path), CORPORA, queries_per_corpus=2, splits=("train",), batch_size=500, samples=0)
    told = explore_or_read(ground(asked, source=source), plan).statistics["agreement"]
    assert told["searches"] == 4 * COUNT
    assert told["truly_supported"] == 2 * COUNT
    assert told["always_no"]["value"] == 0.5
    assert told["accuracy"]["value"] == pytest.approx(1 - expert.flipped / (4 * COUNT))
    assert told["accuracy"]["value"] == pytest.approx(1 - error, abs=0.06)
    assert told["kappa"]["value"] == pytest.approx(1 - 2 * error, abs=0.12)
    assert told["f1"]["value"] == pytest.approx(1 - error, abs=0.06)


@pytest.mark.parametrize("error", [0.05, 0.16, 0.3])
def test_the_intervals_hold_what_was_injected(error):
    """Of 200 judges, 95 % intervals hold one less the error for about 190: by the binomial, fewer than 178 in 1 of 5000."""
    rng, held = np.random.default_rng(0), dict.fromkeys(("accuracy", "f1", "kappa"), 0)
    for _ in range(200):
        truth = np.repeat([True, False], 150)
        said = truth != (rng.random(300) < error)
        told = agreement(truth.tolist(), said.tolist(), [str(n) for n in range(300)], Bootstrap(400))
        for name, expected in (("accuracy", 1 - error), ("f1", 1 - error), ("kappa", 1 - 2 * error)):
            held[name] += getattr(told, name).low <= expected <= getattr(told, name).high
    assert min(held.values()) >= 178, held


def test_where_nobody_knows_the_documents_there_is_none(tmp_path):
    expert = Scripted({"q0": [reply(wiki=["good a"])]})
    plan = ExplorationPlan(expert, str(tmp_path), CORPORA, splits=("train",), samples=0)
    assert explore_or_read(ground(questions(["q0"])), plan).statistics["agreement"] is None
