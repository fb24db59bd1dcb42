"""`null` on the command line, however deep the setting lies."""

from __future__ import annotations

import ast
from functools import cache
from typing import Any

import yaml
from jsonargparse import get_loader, set_loader


@cache
def read_null_words() -> None:
    """Lets a setting below another one be given as null: `--data.init_args.preference.kinds=null`.

    On its way down to such a setting jsonargparse (4.53) writes what it has read as Python and reads it as YAML once more:
    null arrives as the text None, which a number refuses and a path takes for its name. So None alone, and null within a list
    or mapping of Python's, are read as null. A None without quotes among other words stays the text that it is in YAML.
    """
    as_yaml = get_loader("yaml")

    def load(text: str) -> Any:
        if "None" in text:
            try:
                return ast.literal_eval(text.strip())
            except (ValueError, SyntaxError):
                pass
        return as_yaml(text)

    set_loader("yaml", load, exceptions=(yaml.YAMLError,))
