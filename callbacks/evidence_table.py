"""The analysis of retrieval as two small tables, of the inconsistent subset and of the candidates, with footnotes."""

from __future__ import annotations

from collections.abc import Mapping

from rich.table import Table

from callbacks.table_cells import gap_cell, new_table, percent_cell
from medrag_lightning.metrics import RETRIEVED, Account, Compared, EvidenceAnalysis, Metric
from medrag_lightning.records import AnswerType

MAIN = {AnswerType.CLOSED: ("closed_accuracy", "accuracy"), AnswerType.OPEN: ("open_token_recall", "token recall")}
NOT_RIVALS = ("oracle", "poisoned")  # regimes that tell nothing of retrieval; they are in results.json
HOW = (
    "evidence %: oracle, some candidate alone leads to the right answer; regret, oracle minus system; help / hurt, questions "
    "that evidence turned right / wrong (p: exact sign test); pseudo-precision and -recall, as the reader judges: a candidate "
    "counts that makes the gold answer likelier than no evidence by over {margin:g} nats, recall within what all systems found"
)


def evidence_tables(analysis: EvidenceAnalysis) -> list[Table]:
    """What there is to show: the inconsistent subset by answer type, then oracle, ledger and pseudo-relevance."""
    tables = [_subset_table(analysis, kind) for kind, share in analysis.inconsistency.share.items() if share.value > 0]
    evidence = _evidence_table(analysis)
    return [*tables, evidence] if evidence.row_count else tables


def evidence_notes(analysis: EvidenceAnalysis) -> list[str]:
    """What the tables mean, and why what is missing is missing."""
    notes = []
    found = analysis.inconsistency
    if found.share:
        told = ", ".join(f"{percent_cell(share)} % of {share.n} {kind}" for kind, share in found.share.items())
        notes.append(f"inconsistent retrieval: the candidates of {found.defining}, read alone, give several answers: {told}")
    if analysis.candidates.oracle or analysis.ledger.accounts:
        notes.append(HOW.format(margin=analysis.relevance.margin_nats))
    missing: dict[str, list[str]] = {}
    reasons = {
        "inconsistent subset": found.reason,
        "oracle": analysis.candidates.reason,
        "ledger": analysis.ledger.reason,
        "pseudo-relevance": analysis.relevance.reason,
    }
    for name, reason in reasons.items():
        if reason:
            missing.setdefault(reason, []).append(name)
    return notes + [f"{', '.join(names)}: not computed: {reason}" for reason, names in missing.items()]


def _subset_table(analysis: EvidenceAnalysis, kind: AnswerType) -> Table:
    metric, name = MAIN[kind]
    inside, outside = (analysis.inconsistency.parts[part] for part in ("inconsistent", "consistent"))
    f1 = inside["closed_macro_f1"] if kind is AnswerType.CLOSED else {}
    gap = f"{RETRIEVED} -"
    columns = [f"{name} on", gap, *(["macro-F1 on", gap] if f1 else []), f"{name} off"]
    table = new_table(f"inconsistent, {kind}", columns)
    for system, here in inside[metric].items():
        if system not in NOT_RIVALS:
            cells = [*_pair(here), *(_pair(f1[system]) if f1 else ()), _value(outside[metric], system)]
            table.add_row(system, *cells, style="bold" if system == RETRIEVED else "")
    return table


def _evidence_table(analysis: EvidenceAnalysis) -> Table:
    table = new_table("evidence %", ["oracle", "regret", "help / hurt / same (p)", "pseudo-precision", "pseudo-recall@1"])
    oracle, regret, accounts = analysis.candidates.oracle, analysis.candidates.regret, analysis.ledger.accounts
    measures = analysis.relevance.measures
    for system in dict.fromkeys([*oracle, *accounts]):
        judged = [_value(measures.get(name, {}), system) for name in ("precision", "recall_at_1")]
        row = [_value(oracle, system), _value(regret, system, signed=True), _account(accounts.get(system)), *judged]
        table.add_row(system, *row, style="bold" if system == RETRIEVED else "")
    return table


def _pair(compared: Compared) -> tuple[str, str]:
    return percent_cell(compared.value), gap_cell(compared.reference_minus)


def _value(rows: Mapping[str, Compared], system: str, signed: bool = False) -> str:
    metric = rows[system].value if system in rows else Metric.missing("not there")
    return percent_cell(metric, signed)


def _account(account: Account | None) -> str:
    if account is None:
        return "-"
    small = "<.001" if account.p_value < 0.001 else "1" if account.p_value >= 0.9995 else f"{account.p_value:.3f}".lstrip("0")
    return f"{account.helped} / {account.hurt} / {account.unchanged} ({small})"
