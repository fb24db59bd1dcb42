"""What retrieval did to the answers: helped or hurt, inconsistent candidates, and what the best candidate could have done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from medrag_lightning.handoff.report.cells import change, percent, words
from medrag_lightning.handoff.report.markup import Html, folded, joined, table, tag
from medrag_lightning.handoff.report.material import Material
from medrag_lightning.handoff.report.removal import NOT_ALONE
from medrag_lightning.handoff.report.rows import interval_of, interval_rows, stacked_rows
from medrag_lightning.handoff.report.section import TEST, Section, missing, note
from medrag_lightning.metrics import Entry, Outcome

SHOWN = 15
NO_NONE = f"{TEST} --data.init_args.regimes '[retrieved, none, random]'"
ONE = "python -m medrag_lightning test -c stages/reader_raft ... (evidence: one_per_prompt)"
WORST_OF = ("oracle", "poisoned")  # regimes that are no retrieval


def ledger_section(material: Material) -> Section:
    """Per system how often evidence turned an answer right or wrong, and the questions where it did so most."""
    accounts = material.ledger.accounts
    if not accounts:
        reason = material.ledger.reason if material.predictions else "the run has no predictions"
        return Section.absent("ledger", "Helped or hurt", reason, NO_NONE if material.predictions else TEST)
    counts = {name: (a.both_right, a.helped, a.hurt, a.both_wrong) for name, a in accounts.items()}
    parts = [
        note("Against the same reader without evidence. Helped: wrong without, right with it. Hurt: the other way round."),
        stacked_rows("questions by what evidence did", counts, ("both right", "helped", "hurt", "both wrong"), (2, 0, 1, 7)),
        table(
            ["system", "helped", "hurt", "unchanged", "p (exact sign test)"],
            [[name, a.helped, a.hurt, a.unchanged, f"{a.p_value:.2g}"] for name, a in accounts.items()],
        ),
    ]
    mine = list(material.entry_of.values())
    for outcome, sign in ((Outcome.HURT, 1), (Outcome.HELPED, -1)):
        chosen = [entry for entry in mine if entry.outcome is outcome]
        chosen.sort(key=lambda entry: sign * (entry.gold_gain_nats or 0.0))
        if chosen:
            parts.append(_entries(material, f"{outcome}: {len(chosen)} questions, the largest effects first", chosen[:SHOWN]))
    return Section("ledger", "Helped or hurt", joined(parts))


def inconsistency_section(material: Material) -> Section:
    """How often candidates lead to different answers, every system on and off those questions, and the candidates' oracle."""
    name, title = "inconsistency", "Inconsistency and oracle gap"
    evidence = (material.run.results or {}).get("evidence")
    if not evidence:
        return Section.absent(name, title, "the run has no results.json with an analysis of evidence", TEST)
    return Section(name, title, joined([*_inconsistent(evidence["inconsistency"]), *_oracle(evidence, material.main_system)]))


def _entries(material: Material, summary: str, entries: Sequence[Entry]) -> Html:
    head = ["question", "asked", "gold", "without evidence", "with evidence", "log-probability of gold (nats)"]
    rows = [
        [
            material.names.query(entry.query_id),
            material.names.without_ids(entry.question, material.query(entry.query_id), 200),
            *(material.names.without_ids(said or "(invalid)", material.query(entry.query_id), 120)
              for said in (entry.gold, entry.without, entry.answer)),
            change(entry.gold_gain_nats),
        ]
        for entry in entries
    ]  # fmt: skip
    return folded(summary, table(head, rows, class_="words"))


def _inconsistent(told: Mapping[str, Any]) -> list[Html]:
    share: Mapping[str, Any] = told.get("share") or {}
    if not share:
        return [tag("h3", "Inconsistent retrieval"), missing(told.get("reason", "not told"), ONE)]
    shares = ", ".join(f"{percent(metric)} % of {metric['n']} {kind} questions" for kind, metric in share.items())
    head = f"The candidates of {told['defined_by']}, read one by one, lead to different answers for {shares}."
    parts = [tag("h3", "Inconsistent retrieval"), note(head, " Only there can another choice of candidates change an answer.")]
    inside, outside = told["parts"].get("inconsistent", {}), told["parts"].get("consistent", {})
    for metric, systems in inside.items():
        body = [
            [system, percent(one["value"]), percent(one.get("reference_minus"), signed=True),
             percent(outside.get(metric, {}).get(system, {}).get("value"))]
            for system, one in systems.items()
        ]  # fmt: skip
        if body:
            parts.append(table(["system", "on them", "retrieved minus", "on the others"], body, f"{words(metric)} (%)"))
    return parts


def _oracle(evidence: Mapping[str, Any], main: str) -> list[Html]:
    found, relevance = evidence.get("candidates") or {}, evidence.get("pseudo_relevance") or {}
    heading = tag("h3", "Oracle gap")
    oracle = {name: one for name, one in (found.get("oracle") or {}).items() if name not in WORST_OF}
    if not oracle:
        return [heading, missing(found.get("reason") or NOT_ALONE, ONE)]
    values = [interval_of(name, one["value"], strong=name == main) for name, one in oracle.items()]
    drawn = interval_rows("oracle: some candidate alone leads to the right answer (%)", values)
    regret, measures = found.get("regret") or {}, relevance
    body = [
        [name, percent(one["value"]), percent((regret.get(name) or {}).get("value"), signed=True),
         *(percent(((measures.get(key) or {}).get(name) or {}).get("value")) for key in ("precision", "recall_at_1"))]
        for name, one in oracle.items()
    ]  # fmt: skip
    head = ["system", "oracle", "gap: oracle minus system", "pseudo-precision", "pseudo-recall@1"]
    how = note(
        "The gap is what a perfect choice among the found candidates would still gain. Pseudo-relevant: a candidate that makes "
        f"the gold answer likelier than no evidence does by over {relevance.get('margin_nats', '?')} nats, says the reader."
    )
    return [heading, drawn, table(head, body), how]
