"""Train several configs with several seeds; tabulate their APs and the time of an iteration.

A run is finished once: called again, the command goes on where it was interrupted.
"""

import argparse
from collections.abc import Sequence

from ._runs import (
    STEP,
    Run,
    add_run_arguments,
    ap_cells,
    ap_headers,
    measured_tasks,
    step_cell,
    train_missing,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    parser.add_argument(
        "--run",
        action="append",
        nargs="+",
        required=True,
        metavar=("NAME", "CONFIG"),
        dest="runs",
        help="NAME CONFIG [key=value ...]; once for every row of the table",
    )
    add_run_arguments(parser, seeds=(0, 1, 2))


def run(args: argparse.Namespace) -> int:
    """Train what is missing, then print the table."""
    for words in args.runs:
        if len(words) < 2:
            raise ValueError(f"--run {words[0]}: a name needs a config behind it")
    names = [words[0] for words in args.runs]
    if len(set(names)) < len(names):
        raise ValueError(f"--run: every run needs a name of its own, got {names}")
    runs = [
        Run(name, config, tuple(overrides), seed, args.output / name / f"seed{seed}")
        for seed in args.seeds
        for name, config, *overrides in args.runs
    ]
    train_missing(runs, args.jobs, args.threads)
    print(table(runs))
    return 0


def table(runs: Sequence[Run]) -> str:
    """A row a name: mean and single values of AP over the seeds, time of an iteration.

    AP with and without NMS, and of masks where a run has it.
    """
    from tabulate import tabulate

    rows = []
    tasks = measured_tasks(runs)
    for name in dict.fromkeys(job.name for job in runs):
        jobs = [job for job in runs if job.name == name]
        rows.append([name, *ap_cells(jobs, tasks), step_cell(jobs)])
    headers = ("run", *ap_headers(tasks), STEP)
    return tabulate(rows, headers, tablefmt="pipe", disable_numparse=True)
