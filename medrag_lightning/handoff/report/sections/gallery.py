"""Questions with what was found for them: images, texts, scores, weights, and what each document did to the answer."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import zip_longest

from medrag_lightning.handoff.report.cells import change, number
from medrag_lightning.handoff.report.markup import Html, folded, joined, tag
from medrag_lightning.handoff.report.material import Material
from medrag_lightning.handoff.report.removal import Removal
from medrag_lightning.handoff.report.section import TEST, Section, note
from medrag_lightning.metrics import item_correct
from medrag_lightning.records import Document, Prediction, Query

TEXT_CHARS, ANSWER_CHARS, QUESTION_CHARS = 280, 120, 400
OPEN_IN_GROUP = 2
LEAST_NATS = 0.05  # smaller effects have no colour
ORDER = ("hurt", "helped", "both wrong", "both right", "wrong", "right", "answer not known")
REMOVE_EACH = "python -m medrag_lightning report FOLDER --remove_each"
WHAT = (
    "Each card is a document that was found, in order. Weight: its share in the answer. Removed: how much the log-probability "
    "of the given answer (of the gold answer) changes in nats when this document alone is left out; minus: it spoke for that "
    "answer. Green: it spoke for the gold answer, red: against it."
)


def gallery_section(material: Material) -> Section:
    """The questions in turn from each kind of outcome, those first on which evidence had most effect."""
    title = "Retrieval gallery"
    shown = [p for p in material.main if p.cited]
    if not shown:
        reason = "no question was shown evidence" if material.main else "the run has no predictions"
        return Section.absent("gallery", title, reason, TEST)
    chosen = choose(material, shown)
    told = Counter(outcome_of(material, p) for p in chosen)
    count = f"{len(chosen)} of {len(shown)} questions" if len(chosen) < len(shown) else f"all {len(shown)} questions"
    kinds = ", ".join(f"{told[kind]} {kind}" for kind in ORDER if told[kind])
    head = [note(f"{count} ({kinds}); others with --queries N. ", WHAT)]
    if material.world.reason:
        head.append(note(f"Images and texts are not shown: {material.world.reason}."))
    groups: dict[str, list[Html]] = defaultdict(list)
    unknown = Counter[str]()
    for prediction in chosen:
        removals: Sequence[Removal] = ()
        try:
            removals = material.removals(prediction)
        except ValueError as error:
            unknown[str(error)] += 1
        mine = groups[outcome_of(material, prediction)]
        mine.append(_question(material, prediction, removals, is_open=len(mine) < OPEN_IN_GROUP))
    if material.reread_note:
        head.append(note(material.reread_note))
    for reason, times in unknown.items():
        line = f"Effects of removal not computed for {times} questions: {reason}. To have the reader read again without each: "
        head.append(tag("p", line, tag("code", REMOVE_EACH), class_="absent"))
    body = [
        folded(tag("h3", f"{kind}: {len(mine)}"), *mine, is_open=place == 0, class_="group")
        for place, (kind, mine) in enumerate(groups.items())
    ]
    return Section("gallery", title, joined([*head, *body]))


def choose(material: Material, shown: Sequence[Prediction]) -> list[Prediction]:
    """As many questions as are wanted, in turn of each outcome, so that the rare ones are there; then sorted by outcome."""
    by_outcome: dict[str, list[Prediction]] = defaultdict(list)
    for prediction in sorted(shown, key=lambda p: (-_effect(material, p), p.query_id)):
        by_outcome[outcome_of(material, prediction)].append(prediction)
    rounds = zip_longest(*(by_outcome[kind] for kind in ORDER))
    chosen = [p for one_round in rounds for p in one_round if p is not None][: material.queries_shown]
    return sorted(chosen, key=lambda p: (ORDER.index(outcome_of(material, p)), -_effect(material, p)))


def outcome_of(material: Material, prediction: Prediction) -> str:
    """What evidence did to the answer; where that is not known, whether the answer is right."""
    entry = material.entry_of.get(prediction.query_id)
    if entry is not None:
        return str(entry.outcome)
    right = item_correct(prediction)
    return "answer not known" if right is None else "right" if right else "wrong"


def candidate_cards(material: Material, prediction: Prediction, removals: Sequence[Removal]) -> Html:
    """The documents behind an answer, best first."""
    cards = [_card(material, prediction, k, removals[k] if k < len(removals) else None) for k in range(len(prediction.cited))]
    return tag("div", *cards, class_="cards")


def answer_line(material: Material, prediction: Prediction) -> Html:
    """Question, answer, gold answer, and how likely each was."""
    query = material.query(prediction.query_id)

    def told(words: str | None) -> str:
        return "(invalid)" if words is None else material.names.without_ids(words, query, ANSWER_CHARS)

    asked = material.names.without_ids(prediction.question, query, QUESTION_CHARS)
    right = item_correct(prediction)
    mark = {True: "right", False: "wrong", None: "unknown"}[right]
    gold = None if prediction.gold is None or right else joined([" gold: ", tag("b", told(prediction.gold))])
    return tag(
        "span", tag("code", material.names.query(prediction.query_id)), " ", asked, " ",
        tag("b", told(prediction.answer), class_=mark), _probability(prediction, prediction.answer), gold,
        _probability(prediction, prediction.gold) if gold else None, class_="answer",
    )  # fmt: skip


def query_image(material: Material, prediction: Prediction) -> Html:
    """The question's own image."""
    query = material.query(prediction.query_id)
    return material.thumbnails.show(None if query is None else query.image, "the question's image")


def _question(material: Material, prediction: Prediction, removals: Sequence[Removal], is_open: bool) -> Html:
    outcome = outcome_of(material, prediction)
    badge = tag("span", outcome, class_=f"badge {outcome.replace(' ', '-')}")
    need = tag("span", f"needs {prediction.need}", class_="badge") if prediction.need else None
    entry = material.entry_of.get(prediction.query_id)
    without = None
    if entry is not None:
        said = material.names.without_ids(entry.without or "(invalid)", material.query(prediction.query_id), ANSWER_CHARS)
        gain = "" if entry.gold_gain_nats is None else f"; all evidence together: gold {change(entry.gold_gain_nats)} nats"
        without = note(f"Without evidence: {said}{gain}.")
    row = tag("div", query_image(material, prediction), candidate_cards(material, prediction, removals), class_="found")
    return folded(
        joined([badge, need, " ", answer_line(material, prediction)]), without, row, is_open=is_open, class_="question"
    )


def _card(material: Material, p: Prediction, k: int, removal: Removal | None) -> Html:
    document = material.world.documents.get(p.cited[k])
    facts = [f"{str(p.channels[k]).replace('_', ' ')} {number(p.scores[k])}" if k < len(p.scores) else None]
    if p.weights:
        facts.append(f"weight {100 * p.weights[k]:.0f} %")
    alone = None
    if k < len(p.candidate_answers):
        alone = tag("div", "alone: ", p.candidate_answers[k] or "(invalid)", class_="alone")
    return tag(
        "div", material.thumbnails.show(None if document is None else document.image, f"document {k + 1}"),
        tag("div", tag("code", material.names.document(p.cited[k])), _known(material.query(p.query_id), p.cited[k])),
        tag("div", " · ".join(fact for fact in facts if fact), class_="facts"),
        _bar(p.weights[k]) if p.weights else None, alone, _removed(removal), _words(material, document), class_="card",
    )  # fmt: skip


def _words(material: Material, document: Document | None) -> Html | None:
    if document is None:
        return None
    return tag("div", material.names.without_ids(document.text, document, TEXT_CHARS), class_="text")


def _known(query: Query | None, document_id: str) -> Html | None:
    """Whether a generated world knows the document to be right or misleading."""
    if query is not None and document_id in query.relevant_ids:
        return tag("span", "known right", class_="badge helped")
    if query is not None and document_id in query.poison_ids:
        return tag("span", "known to mislead", class_="badge hurt")
    return None


def _removed(removal: Removal | None) -> Html | None:
    if removal is None or (removal.answer_change_nats is None and removal.gold_change_nats is None):
        return None
    answer, gold = removal.answer_change_nats, removal.gold_change_nats
    told = f"removed: answer {change(answer)}" if answer is not None else "removed:"
    told += (
        f" (gold {change(gold)})"
        if answer is not None and gold is not None
        else f" gold {change(gold)}"
        if gold is not None
        else ""
    )
    effect = gold if gold is not None else answer or 0.0
    kind = "" if abs(effect) < LEAST_NATS else "for" if effect < 0 else "against"
    return tag("div", told, class_=f"removed {kind}".rstrip())


def _bar(weight: float) -> Html:
    return tag("div", tag("div", style=f"width:{100 * weight:.0f}%"), class_="weight")


def _probability(prediction: Prediction, answer: str | None) -> str:
    if answer not in prediction.choices or not prediction.logp_nats:
        return ""
    return f" {100 * math.exp(prediction.logp_nats[prediction.choices.index(answer)]):.0f} %"


def _effect(material: Material, prediction: Prediction) -> float:
    entry = material.entry_of.get(prediction.query_id)
    return abs(entry.gold_gain_nats) if entry is not None and entry.gold_gain_nats is not None else 0.0
