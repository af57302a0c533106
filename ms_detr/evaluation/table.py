"""Results as text."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import chain, zip_longest

from tabulate import tabulate

LONGEST = 40  # characters of a class name in the table
METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")
CLASS_PREFIX = "AP-"


def format_results(results: Mapping[str, Mapping[str, float]]) -> str:
    """Make tables of the metrics of every task, and of its APs by class.

    Args:
        results: by task, as `CocoEvaluator.evaluate` returns them.
    """
    overall = [
        [task, *(percent(values[name]) for name in METRICS)] for task, values in results.items()
    ]
    tables = [as_table(overall, ("task", *METRICS))]
    names = [name for name in next(iter(results.values()), {}) if name.startswith(CLASS_PREFIX)]
    if names:
        by_class = [
            [_shown(name.removeprefix(CLASS_PREFIX)), *(percent(r[name]) for r in results.values())]
            for name in names
        ]
        headers = ("class", *(f"{task} AP" for task in results))
        # A long list goes into three blocks side by side.
        blocks = 1 if len(names) < 12 else 3
        height = -(-len(by_class) // blocks)
        columns = [by_class[i : i + height] for i in range(0, len(by_class), height)]
        rows = [list(chain.from_iterable(row)) for row in zip_longest(*columns, fillvalue=[])]
        tables.append(as_table(rows, headers * len(columns)))
    return "\n\n".join(tables)


def _shown(name: str) -> str:
    """Make a class name fit a table: one line, of moderate length, without bars."""
    name = " ".join(name.split()).replace("|", "\\|")
    half = LONGEST // 2
    return name if len(name) <= LONGEST else f"{name[: half - 2]}...{name[1 - half :]}"


def percent(value: float) -> str:
    """A number of a table; "none" for NaN."""
    return "none" if math.isnan(value) else f"{value:.2f}"


def as_table(rows: Sequence[Sequence[str]], headers: Sequence[str]) -> str:
    """Make a Markdown table of texts."""
    return tabulate(rows, headers, tablefmt="pipe", disable_numparse=True)
