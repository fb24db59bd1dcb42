"""Which system's prompts are steered, and how: the settings of a stage that reads, checked and brought into one form."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from medrag_lightning.batches import Steering
from medrag_lightning.prompts import PromptOrder

OWN = "retrieved"
"""What settings call the run's own source; an example of it has the system name ``""``."""


def steered_systems(
    steering: Mapping[str, Steering] | None,
    critical_layers: Sequence[int] | str | None,
    one_candidate_per_prompt: bool,
    order: PromptOrder,
) -> dict[str, Steering]:
    """The steering of each system, by `Example.system`.

    Args:
        steering: as a user gives it: ``""`` or ``retrieved`` for the run's own source, or the name of a rival.
        critical_layers: what ``layers: critical`` stands for, numbers or a file; None where it is not known.
        one_candidate_per_prompt: the layout of evidence; steering needs all of it in one prompt.
        order: of the prompt; attention looks back only.

    Raises:
        ValueError: a setting that would be ignored, or a name given twice.
    """
    made: dict[str, Steering] = {}
    for name, of_system in (steering or {}).items():
        if one_candidate_per_prompt:
            raise ValueError(
                f"steering of {name or OWN!r} needs all evidence in one prompt, and evidence is one_per_prompt; "
                "set --model.init_args.evidence all_in_one_prompt"
            )
        if order == "query_first" and _looks_at_evidence(of_system):
            raise ValueError(
                f"steering of {name or OWN!r} would be ignored: with template order query_first evidence stands behind the "
                "question, whose tokens cannot look ahead; set --model.init_args.template.order evidence_first"
            )
        system = "" if name == OWN else name
        if system in made:
            raise ValueError(f"steering names the run's own source twice, as '' and as {OWN!r}; leave one out")
        if of_system.layers == "critical" and critical_layers is None:
            raise ValueError(
                f"steering of {name or OWN!r} has layers: critical, and it is not known which these are: give "
                "--model.init_args.critical_layers, as stage critical_layers finds them, or layers by number"
            )
        made[system] = of_system
    if critical_layers is not None and not any(s.layers == "critical" for s in made.values()):
        raise ValueError(f"critical_layers={critical_layers} would be ignored: no steering has layers: critical")
    return made


def numbered(steered: Mapping[str, Steering], critical_layers: Sequence[int]) -> dict[str, Steering]:
    """The same with numbers in the place of ``critical``."""
    known = list(critical_layers)
    return {name: replace(s, layers=known) if s.layers == "critical" else s for name, s in steered.items()}


def check_names(steered: Collection[str], rivals: Collection[str]) -> None:
    """Raises ValueError for a steered system that neither the run nor its data module has."""
    if unknown := sorted(set(steered) - {"", *rivals}):
        raise ValueError(
            f"model.init_args.steering names {unknown[0]!r}, no system of this run; there are {[OWN, *sorted(rivals)]} "
            f"({OWN!r} is data.init_args.source, the others are data.init_args.rivals)"
        )


def _looks_at_evidence(steering: Steering) -> bool:
    """Whether the question's tokens are to look at evidence, which then must stand before them."""
    if steering.policy == "knockout":
        return steering.direction == "evidence_to_question"
    return steering.policy != "pai"
