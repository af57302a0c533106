"""A dataset on one page: what is wrong with it, how much there is, what it looks like."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..data.check import Checked
from ..data.check.statistics import CELLS
from ..files import write_text
from .bars import draw_histogram
from .rendering import template
from .samples import draw_samples

LISTED = 100  # findings of a group


def write_sheet(checked: Checked, file: Path) -> Path:
    """Write what was found in a dataset as one page that needs nothing else, and no network.

    Returns:
        The file.

    Raises:
        OSError: the file can't be written.
    """
    write_text(file, render_sheet(checked))
    return file


def render_sheet(checked: Checked) -> str:
    """The page of a dataset, as HTML."""
    ordinary, faults = draw_samples(checked)
    statistics = checked.statistics
    return template("sheet.html").render(
        name=checked.located.folder.resolve().name,
        facts=_facts(checked),
        groups=[(group, faults[group.kind, group.what]) for group in checked.groups],
        listed=LISTED,
        splits=statistics.splits,
        classes=_classes(checked),
        histograms=[draw_histogram(histogram) for histogram in statistics.histograms],
        levels=statistics.levels,
        cells=CELLS,
        limits=checked.limits,
        samples=ordinary,
    )


def _facts(checked: Checked) -> list[tuple[str, str]]:
    """The dataset in a few lines: name and value."""
    splits = checked.statistics.splits.values()
    errors, warnings = (
        sum(group.count for group in checked.groups if group.kind.is_error is is_error)
        for is_error in (True, False)
    )
    return [
        ("errors", f"{errors:,}"),
        ("warnings", f"{warnings:,}"),
        ("images", f"{len(checked.images):,}"),
        ("objects", f"{sum(split.objects for split in splits):,}"),
        ("classes", f"{len(checked.objects.names):,}"),
        ("form", checked.located.form.name),
    ]


def _classes(checked: Checked) -> list[tuple[str, list[int], float]]:
    """Name, objects by split, and the share of the largest class in percent; the largest first."""
    splits = checked.statistics.splits.values()
    rows = [(name, [split.by_class[name] for split in splits]) for name in checked.objects.names]
    most = max((sum(counts) for _, counts in rows), default=0)
    order = np.argsort([-sum(counts) for _, counts in rows], kind="stable")
    return [(*rows[k], 100 * sum(rows[k][1]) / max(most, 1)) for k in order]
