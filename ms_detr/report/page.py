"""The page of a run: sections of what there is, and a sentence where something is missing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UserError, short_message
from ..evaluation.reading import read_detections
from ..evaluation.table import percent
from ..files import write_text
from ..run_folder import AVERAGED, EVALUATION, PREDICTIONS, REPORT, TOTAL
from . import curves
from .dataset import evaluated_images
from .rendering import expect_writable, render
from .run import DECAY, Run, read_run
from .seen import NMS, TASKS, Seen, look


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
    expect_writable(file.parent)
    name = run.folder.resolve().name
    page = render(
        "page.html", run.results, _seen(run), run=run, name=name, facts=_facts(run),
        curves=_curves(run),
    )  # fmt: skip
    write_text(file, page)
    return file


def _seen(run: Run) -> Seen:
    folder = run.folder / EVALUATION
    if not (folder / PREDICTIONS).is_file():
        return Seen(f"There is no {EVALUATION}/{PREDICTIONS}: nothing was evaluated yet.")
    try:
        data = evaluated_images(run.setting)
        measured = run.setting("dataloader.evaluator.nms_threshold")
        nms = measured if isinstance(measured, (int, float)) else NMS
        return look(data, read_detections(folder, data.class_of, nms), nms)
    except (UserError, OSError) as error:
        return Seen(short_message(error) or str(error))


def _facts(run: Run) -> list[tuple[str, str]]:
    """The run in a few lines: name and value."""
    facts = [("state", "finished" if run.finished else "not finished")]
    facts.append(("iterations", str(run.iterations)))
    for name in ("segm/AP", "bbox/AP", f"{AVERAGED}bbox/AP"):
        if name in run.series and (not name.startswith(AVERAGED) or run.setting(DECAY) is not None):
            series = run.series[name]
            best = int(np.nan_to_num(series.values, nan=-1.0).argmax())
            text = percent(float(series.values[-1]))
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
