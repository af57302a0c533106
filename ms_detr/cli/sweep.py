"""Train a config with several values of a key, tabulate the APs and draw them.

``key=1,2,3`` gives a run a value; several such keys give a grid. Everything else is an override of
all runs. A run is finished once: called again, the command goes on where it was interrupted.
"""

import argparse
import itertools
import json
import re
from collections.abc import Sequence
from typing import Any

from ms_detr.errors import ConfigError

from ._runs import (
    Run,
    add_run_arguments,
    expect_none,
    expect_own_seeds,
    train_missing,
)
from ._tables import ap_table, measured_tasks


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    parser.add_argument("config", metavar="CONFIG", help="the config of all runs")
    parser.add_argument("opts", nargs="+", metavar="key=a,b,c", help="keys, with values to try")
    add_run_arguments(parser, seeds=(0,))


def run(args: argparse.Namespace) -> int:
    """Train what is missing; print the table, write it as Markdown, JSON and a picture."""
    from ms_detr.config import load
    from ms_detr.files import write_text
    from ms_detr.overrides import expand
    from ms_detr.visualization import draw_sweep

    expect_own_seeds(args.seeds)
    choices = [expand(text) for text in args.opts]
    swept = [choice for choice in choices if len(choice) > 1]
    if not swept:
        raise ConfigError("no key has several values to try: write one as key=a,b,c")
    grid = list(itertools.product(*choices))
    for overrides in grid:
        load(args.config, overrides)  # a mistake shows before anything is trained
    points = list(itertools.product(*swept))
    folders = [args.output / re.sub(r"[^\w.,=+-]", "_", ",".join(point)) for point in points]
    if len(set(folders)) < len(folders):
        raise ConfigError(f"{args.opts} gives the same value twice, or values of the same name")
    runs = [
        Run(", ".join(point), args.config, overrides, seed, folder / f"seed{seed}")
        for seed in args.seeds
        for point, overrides, folder in zip(points, grid, folders, strict=True)
    ]
    failed = train_missing(runs, args.jobs, args.threads)
    tasks = measured_tasks(runs)
    rows = [
        row(point, job, tasks) for point, job in zip(points * len(args.seeds), runs, strict=True)
    ]
    text = table(points, runs, tasks)
    print(text)
    fixed = [choice[0] for choice in choices if len(choice) == 1]
    write_text(args.output / "sweep.md", f"{' '.join([args.config, *fixed])}\n\n{text}\n")
    content = {"config": args.config, "overrides": fixed, "rows": rows}
    write_text(args.output / "sweep.json", json.dumps(content, indent=1) + "\n")
    print(f"drawn: {draw_sweep(rows, args.output / 'sweep.png')}")
    expect_none(failed)
    return 0


def row(point: Sequence[str], job: Run, tasks: Sequence[str]) -> dict[str, Any]:
    """One run as JSON: values by key, seed, AP by task and time."""
    values = dict(override.split("=", 1) for override in point)
    measured = {task: job.ap(task) for task in tasks}
    return {"values": values, "seed": job.seed, "AP": measured, "step_seconds": job.step_seconds()}


def table(points: Sequence[Sequence[str]], runs: Sequence[Run], tasks: Sequence[str]) -> str:
    """A row a point of the grid: its values, AP over the seeds, time of an iteration."""
    rows = []
    for point in points:
        jobs = [run for run in runs if run.name == ", ".join(point)]
        rows.append(([override.split("=", 1)[1] for override in point], jobs))
    return ap_table([override.split("=", 1)[0] for override in points[0]], rows, tasks)
