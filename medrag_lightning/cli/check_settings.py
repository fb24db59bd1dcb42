"""A configuration as the verbs parse it, without building anything of it."""

from __future__ import annotations

import re
from collections.abc import Sequence

from medrag_lightning.cli.verbs import MedragCLI, read_command
from medrag_lightning.data.audit.findings import Finding


def settings_findings(arguments: Sequence[str]) -> list[Finding]:
    """An error for the first setting that the verbs would refuse: an unknown key, a wrong type, no such class."""
    try:
        read_command("fit", arguments, ParsedOnly)
    except ValueError as error:
        message = str(error)
        place = re.match(r"(?P<where>.+?:\d+(?::\d+)?): (?P<what>.*)", message, re.DOTALL)
        where, what = (place["where"], place["what"]) if place else ("configuration", message)
        return [Finding("setting_refused", "error", where, what, "correct the setting; `fit --help_all` lists them all")]
    return []


class ParsedOnly(MedragCLI):
    """Parses, and leaves it at that."""

    def _set_seed(self) -> None:
        """Nothing is drawn."""

    def before_instantiate_classes(self) -> None:
        """No run folder is chosen."""

    def instantiate_classes(self) -> None:
        """Nothing is built."""

    def after_instantiate_classes(self) -> None:
        """There is nothing to compare."""
