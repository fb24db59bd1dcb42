"""Options of verbs that answer new questions of a run whose questions a query generator wrote searches for."""

from __future__ import annotations

import argparse


def add_generator_options(parser: argparse.ArgumentParser) -> None:
    """Adds ``--generator``, ``--generator_ckpt_path`` and ``--without_generator``."""
    parser.add_argument("--generator")
    parser.add_argument("--generator_ckpt_path")
    parser.add_argument("--without_generator", action="store_true")


def check_generator_options(told: argparse.Namespace) -> None:
    """ValueError where one of the options about a query generator would be ignored."""
    if told.generator is not None and told.without_generator:
        raise ValueError("--generator and --without_generator: one would be ignored; leave one out")
    if told.generator is None and told.generator_ckpt_path is not None:
        raise ValueError("--generator_ckpt_path would be ignored without --generator RUN")
