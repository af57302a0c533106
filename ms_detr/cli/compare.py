"""Train several configs with several seeds; tabulate their APs and the time of an iteration.

A run is finished once: called again, the command goes on where it was interrupted.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from ms_detr.errors import ConfigError, UserError

from ._arguments import add_run_configs, expect_configs, seed
from ._runs import (
    Run,
    add_run_arguments,
    expect_none,
    expect_own_seeds,
    train_missing,
)
from ._tables import ap_table, course_table, difference_table, measured_tasks


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    add_run_configs(parser)
    add_run_arguments(parser, seeds=(0, 1, 2))
    add_draws(parser)


def add_draws(parser: argparse.ArgumentParser) -> None:
    """Add the argument of how finely differences are told."""
    parser.add_argument(
        "--draws",
        type=seed,
        default=1000,
        help="draws of the test images that tell how far a difference is chance; 0: no "
        "differences (default: 1000)",
    )


def run(args: argparse.Namespace) -> int:
    """Train what is missing; print the table of what is finished, write and draw it."""
    from ms_detr.config import load
    from ms_detr.files import write_text
    from ms_detr.visualization import draw_comparison, draw_courses

    expect_own_seeds(args.seeds)
    expect_configs(args.runs)
    names = [words[0] for words in args.runs]
    for name in names:
        if name in ("", "..") or Path(name).name != name:
            raise ConfigError(f"--run '{name}': the name is that of a folder in --output")
    for _, config, *overrides in args.runs:
        load(config, overrides)  # a mistake shows before anything is trained
    runs = [
        Run(name, config, tuple(overrides), seed, args.output / name / f"seed{seed}")
        for seed in args.seeds
        for name, config, *overrides in args.runs
    ]
    failed = train_missing(runs, args.jobs, args.threads)
    text = table(runs)
    write_text(args.output / "compare.md", f"{text}\n")
    print(text)
    print(f"drawn: {draw_comparison(named_aps(runs), args.output / 'compare.png')}")
    if courses := measured_courses(runs):
        write_text(args.output / "courses.md", f"{course_table(runs)}\n")
        print(f"drawn: {draw_courses(courses, args.output / 'courses.png')}")
    if args.draws:
        against = differences(runs, args.draws)
        write_text(args.output / "compare.md", f"{text}\n\n{against}\n")
        print(f"\n{against}")
    expect_none(failed)
    return 0


def named_aps(runs: Sequence[Run]) -> list[tuple[str, dict[str, float | None]]]:
    """Every run's name and its AP by task."""
    tasks = measured_tasks(runs)
    return [(run.name, {task: run.ap(task) for task in tasks}) for run in runs]


def measured_courses(runs: Sequence[Run]) -> list[tuple[str, dict[int, float]]]:
    """Every run's name and its AP by iterations; empty if none was evaluated along the way."""
    courses = [(run.name, run.course("bbox")) for run in runs]
    return courses if any(len(course) > 1 for _, course in courses) else []


def differences(runs: Sequence[Run], draws: int) -> str:
    """A row each name but the first: by how much its AP differs from the first one's.

    Where that can't be told, a sentence says why: the trainings stand as they are.
    """
    from ms_detr.engine.comparing import read_trainings

    from ._progress import Counter

    first = runs[0].name
    folders: dict[str, list[Path]] = {}
    for run in runs:
        if run.finished():
            folders.setdefault(run.name, []).append(run.folder)
    if first not in folders:
        return f"no differences: the first name, {first}, has no run that is finished"
    if len(folders) < 2:
        return f"no differences: no name but {first} has runs that are finished"
    try:
        read = read_trainings(folders)
        with Counter(read.steps, "classes of trainings") as counter:
            found = read.above_the_first(draws, progress=counter.advance)
    except UserError as error:
        return f"no differences: {error}"
    how = f"{draws} draws of the test images; a name's AP is the mean of its finished seeds"
    return f"{difference_table(first, found)}\n\n{how}"


def table(runs: Sequence[Run]) -> str:
    """A row a name: AP over the seeds and the time of an iteration.

    AP with and without NMS, and of masks where a run has it.
    """
    names = dict.fromkeys(run.name for run in runs)
    rows = [([name], [run for run in runs if run.name == name]) for name in names]
    return ap_table(["run"], rows, measured_tasks(runs))
