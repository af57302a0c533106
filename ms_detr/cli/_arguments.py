"""Arguments that several verbs have: their types and checks."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from ms_detr.paths import expand


def path(text: str) -> Path:
    """A file or folder, for argparse; shells leave the ~ of ``--output=~/runs`` as it is."""
    try:
        return Path(expand(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def count(text: str) -> int:
    """A whole number of at least 1, for argparse."""
    return _at_least(1, text)


def seed(text: str) -> int:
    """A whole number of at least 0, for argparse."""
    return _at_least(0, text)


def _at_least(least: int, text: str) -> int:
    value = int(text)
    if value < least:
        raise argparse.ArgumentTypeError(f"must be at least {least}, got {value}")
    return value


def expect_own_names(names: Sequence[str]) -> None:
    """Raise ValueError where two ``--run`` have one name."""
    if len(set(names)) < len(names):
        raise ValueError(f"--run: every run needs a name of its own, got {names}")
