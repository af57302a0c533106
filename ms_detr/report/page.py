"""The page: sections of what there is, and a sentence where something is missing."""

from __future__ import annotations

import datetime
import logging
import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from .. import __version__
from ..errors import ConfigError, UserError, short_message
from ..evaluation.reading import read_detections
from ..evaluation.table import CLASS_PREFIX, METRICS
from ..files import write_text
from ..run_folder import AVERAGED, EVALUATION, PREDICTIONS, REPORT
from . import curves
from .dataset import evaluated_images
from .duplicates import Duplicates, count_duplicates
from .images import Picture, draw_images, worst_and_best
from .matching import IOU, Tally, best_threshold, joined, match_images
from .run import DECAY, TOTAL, Run, read_run

logger = logging.getLogger(__name__)

NMS = 0.7  # IoU, where the config has none
TASKS = ("bbox", "segm", "bbox_nms", "segm_nms")


def write_report(folder: Path, file: Path | None = None) -> Path:
    """Write what a run's folder tells as one HTML page that needs nothing else, and no network.

    Args:
        folder: ``train.output_dir`` of a run, finished or not.
        file: where to; None for ``report.html`` in the folder.

    Returns:
        The file.

    Raises:
        MissingFileError: no run has begun in the folder.
        ConfigError: the file's folder can't be written to.
        OSError: the file can't be written.
    """
    file = folder / REPORT if file is None else file
    run = read_run(folder)
    if file.parent.is_dir() and not os.access(file.parent, os.W_OK):
        raise ConfigError(f"{file.parent} can't be written to: name another place, --output FILE")
    write_text(file, render(run))
    return file


def render(run: Run) -> str:
    """The page of a run, as HTML."""
    seen = _seen(run)
    return template("page.html").render(
        run=run,
        name=run.folder.resolve().name,
        facts=_facts(run),
        curves=_curves(run),
        sizes=_sizes(run),
        classes=_classes(run, seen),
        seen=seen,
        iou=IOU,
        metrics=METRICS,
        tasks=[task for task in TASKS if task in run.results],
    )


@dataclass(frozen=True)
class Seen:
    """What the images of the last evaluation tell.

    Attributes:
        problem: why there is nothing of it; else empty.
        threshold: the least score of what is drawn and counted.
        tally: of all images together, at that score.
        objects: of each class, by name, without crowds.
    """

    problem: str = ""
    threshold: float = 0.0
    images: int = 0
    tally: Tally = field(default_factory=lambda: Tally(0, 0, 0))
    objects: dict[str, int] = field(default_factory=dict)
    duplicates: Duplicates | None = None
    worst: list[Picture] = field(default_factory=list)
    best: list[Picture] = field(default_factory=list)


def _seen(run: Run) -> Seen:
    folder = run.folder / EVALUATION
    if not (folder / PREDICTIONS).is_file():
        return Seen(f"There is no {EVALUATION}/{PREDICTIONS}: nothing was evaluated yet.")
    try:
        return _look(run, folder)
    except (UserError, OSError) as error:
        return Seen(short_message(error) or str(error))


def _look(run: Run, folder: Path) -> Seen:
    data = evaluated_images(run)
    truth = data.truth
    classes = {category: k for k, category in enumerate(truth.category_ids)}
    measured = run.setting("dataloader.evaluator.nms_threshold")
    nms = measured if isinstance(measured, (int, float)) else NMS
    detections = read_detections(folder, classes, nms)
    matches = match_images(truth, detections)
    threshold = best_threshold(matches)
    chosen = worst_and_best(matches, threshold)
    worst, best = (
        draw_images(images, data.records, detections, matches, threshold, data.metadata)
        for images in chosen
    )
    counts = np.bincount(truth.classes[~truth.crowds], minlength=len(truth.class_names))
    return Seen(
        threshold=threshold,
        images=len(truth.sizes),
        tally=joined(matches).tally(threshold),
        objects=dict(zip(truth.class_names, counts.tolist(), strict=True)),
        duplicates=count_duplicates(detections, len(truth.sizes), nms),
        worst=worst,
        best=best,
    )


def _facts(run: Run) -> list[tuple[str, str]]:
    """The run in a few lines: name and value."""
    facts = [("state", "finished" if run.finished else "not finished")]
    facts.append(("iterations", str(run.iterations)))
    for name in ("segm/AP", "bbox/AP", f"{AVERAGED}bbox/AP"):
        if name in run.series and (not name.startswith(AVERAGED) or run.setting(DECAY) is not None):
            series = run.series[name]
            best = int(series.values.argmax())
            text = f"{series.values[-1]:.2f}"
            if best < len(series.values) - 1:
                text += f" (best {series.values[best]:.2f} at {series.iterations[best]})"
            facts.append((name, text))
    if (seconds := run.training_time()) is not None:
        facts.append(("time in steps", f"{seconds}"))
        facts.append(("a step", f"{run.series['time'].values[-1]:.3f} s"))
    if run.log.starts:
        facts.append(("time in all", f"{run.log.wall}, starts: {run.log.starts}"))
    return facts


def _curves(run: Run) -> list[curves.Curve]:
    series = run.series
    terms = {name: series[name] for name in sorted(series) if name.endswith("/loss")}
    losses = {"total": series[TOTAL]} if TOTAL in series else {}
    losses |= {name.removesuffix("/loss"): value for name, value in terms.items()}
    aps = {
        f"{prefix}{task}": series[name]
        for prefix in ("", AVERAGED)
        for task in TASKS
        if (name := f"{prefix}{task}/AP") in series
    }
    wanted: list[tuple[str, dict[str, Any], str, bool]] = [
        ("losses by term", losses, "loss", True),
        ("AP", aps, "AP", False),
        ("learning rate", {"lr": series.get("lr")}, "learning rate", False),
        ("norm of the gradient", {"norm": series.get("grad_norm")}, "norm", True),
        (
            "seconds a step",
            {"step": series.get("time"), "waiting for data": series.get("data_time")},
            "seconds",
            False,
        ),
    ]
    drawn = []
    for title, lines, label, log in wanted:
        there = {name: line for name, line in lines.items() if line is not None}
        if there:
            drawn.append(curves.draw(title, there, label, log))
    return drawn


def _sizes(run: Run) -> list[tuple[str, list[float]]]:
    """AP and AP by size, a row a task."""
    return [
        (task, [values.get(metric, math.nan) for metric in METRICS])
        for task, values in run.results.items()
    ]


def _classes(run: Run, seen: Seen) -> list[tuple[str, int | None, list[float]]]:
    """Name, objects and AP by task of each class, the best first."""
    tasks = [task for task in TASKS if task in run.results]
    if not tasks:
        return []
    names = [
        name.removeprefix(CLASS_PREFIX)
        for name in run.results[tasks[0]]
        if name.startswith(CLASS_PREFIX)
    ]
    rows = [
        (
            name,
            seen.objects.get(name),
            [run.results[task].get(CLASS_PREFIX + name, math.nan) for task in tasks],
        )
        for name in names
    ]
    return sorted(rows, key=lambda row: (math.isnan(row[2][0]), -row[2][0], row[0]))


def template(name: str) -> jinja2.Template:
    """Return a page's template, which knows who writes it and when."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(__package__, "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": _number, "span": _span}
    environment.globals |= {
        "version": __version__,
        "now": datetime.datetime.now().astimezone().isoformat(" ", "minutes"),
    }
    return environment.get_template(name)


def _number(value: float, digits: int = 1) -> str:
    return "none" if math.isnan(value) else f"{value:.{digits}f}"


def _span(value: float) -> str:
    """A percentage as a length in CSS."""
    return "0" if math.isnan(value) else f"{min(max(value, 0.0), 100.0):.1f}%"
