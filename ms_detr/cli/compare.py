"""Train several configs with several seeds and tabulate their APs.

A run is finished once: called again, the command goes on where it was interrupted.
"""

import argparse
from collections.abc import Sequence

from ._runs import Run, add_run_arguments, ap_cells, ap_headers, measured_tasks, train_missing


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
    """A row a name: mean and single values of AP over the seeds, with and without NMS.

    Mask AP where a run has it.
    """
    from tabulate import tabulate

    names = dict.fromkeys(job.name for job in runs)
    tasks = measured_tasks(runs)
    rows = [[name, *ap_cells([job for job in runs if job.name == name], tasks)] for name in names]
    return tabulate(rows, ("run", *ap_headers(tasks)), tablefmt="pipe", disable_numparse=True)
