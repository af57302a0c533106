"""Train and tabulate what docs/evidence.md shows: one command a table.

    python tools/evidence.py methods --jobs 2

trains every row of the table with three seeds, what is finished left out, and prints AP and how far
rows differ from the first of their group. A row belongs to a dataset, not to a table: in whichever
it stands, it is trained once. What is printed is written and drawn, too.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ms_detr.cli import run_command
from ms_detr.cli._runs import (
    Run,
    add_run_arguments,
    expect_none,
    expect_own_seeds,
    train_missing,
)
from ms_detr.cli._tables import course_table
from ms_detr.cli.compare import add_draws, differences, measured_courses, named_aps
from ms_detr.cli.compare import table as ap_table
from ms_detr.cli.sweep import row as point
from ms_detr.config import load
from ms_detr.errors import MissingFileError
from ms_detr.files import write_text
from ms_detr.pipes import with_reader
from ms_detr.recipes.data import data_folder
from ms_detr.signals import insisting
from ms_detr.visualization import draw_comparison, draw_courses, draw_sweep

SEEDS = (0, 1, 2)
TASKS = ("bbox", "bbox_nms")  # of a curve
LEAN = ("train.report=false", "train.pictures=0")  # of every run


def on_test_split(name: str) -> tuple[str, ...]:
    """Overrides for a set of micrographs, whose configs evaluate on the validation split."""
    folder = data_folder(name)
    return (
        f"dataloader.test.dataset.name={name}_test",
        f"dataloader.test.dataset.images={folder}/test",
        f"dataloader.test.dataset.annotations={folder}/annotations/test.json",
    )


def of_images(number: int) -> tuple[str, ...]:
    """Overrides that train on the first so many images of blood cells."""
    return (
        f"dataloader.train.dataset.annotations={data_folder('bccd')}/annotations/train_{number}.json",
        f"dataloader.train.dataset.name=bccd_train_{number}",
    )


@dataclass(frozen=True)
class Study:
    """Rows on one dataset: config and overrides by name, and overrides of all of them."""

    folder: str
    rows: Mapping[str, tuple[str, ...]]
    overrides: tuple[str, ...] = ()

    def row(self, name: str) -> tuple[str, ...]:
        """Return a row's config and all its overrides."""
        config, *own = self.rows[name]
        return (config, *self.overrides, *own, *LEAN)


@dataclass(frozen=True)
class Table:
    """Rows of a study, in groups that are compared with their first one.

    Attributes:
        curve: what a curve is drawn over; empty for none.
        points: of the curve, a value and the rows at it by the curve's name.
    """

    study: Study
    groups: tuple[tuple[str, ...], ...]
    curve: str = ""
    points: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


def numbered(
    unit: str,
    numbers: Sequence[int],
    configs: Mapping[str, str],
    overrides: Callable[[int], tuple[str, ...]],
) -> dict[str, tuple[str, ...]]:
    """Rows of every config at every number, such as ``baseline_25_images``."""
    return {
        f"{name}_{number}_{unit}": (config, *overrides(number))
        for number in numbers
        for name, config in configs.items()
    }


TWO = {"baseline": "bccd/deformable_detr.py", "published": "bccd/ms_detr_published.py"}
THREE = {**TWO, "fading": "bccd/ms_detr_fading.py"}
HALVED = "model.criterion.terms.o2m.weight=0.5"
BY_PAIRS = "+model.criterion.terms.o2m.objects={_target_: ms_detr.supervision.AssignedPairs}"
FAMILY = ("plus_plus", "dino", "dn", "hybrid", "group", "ia_bce", "co", "sam_multi_scale")
IMAGES, ITERATIONS, QUERIES = (25, 50, 100), (500, 1000, 4000), (30, 120)
ASSIGNER = {"k": (2, 12), "threshold": (0.2, 0.6), "alpha": (0.0, 0.6), "quota": (0.5, 1.0)}

BLOOD = Study(
    "bccd",
    {
        **{name: (config,) for name, config in THREE.items()},
        "balanced": ("bccd/ms_detr_balanced.py",),
        "normalised": ("bccd/ms_detr_normalised.py",),
        "fading_by_pairs": (THREE["fading"], BY_PAIRS),
        "order_only": ("bccd/order_only.py",),
        **{name: (f"bccd/ms_detr_{name}.py",) for name in ("a", "b", "d", "own_heads")},
        **{
            f"{key}_{value}": (
                TWO["published"],
                f"model.criterion.terms.o2m.assigner.{key}={value}",
            )
            for key, values in ASSIGNER.items()
            for value in values
        },
        **{name: (f"bccd/family/{name}.py",) for name in FAMILY},
        **{f"ms_detr_{name}": (f"bccd/family/ms_detr_{name}.py",) for name in FAMILY},
        **numbered("images", IMAGES, TWO, of_images),
        **numbered("iterations", ITERATIONS, THREE, lambda n: (f"train.max_iter={n}",)),
        **numbered("queries", QUERIES, TWO, lambda n: (f"model.num_queries={n}",)),
    },
    on_test_split("bccd"),
)
BALANCE = {
    "baseline": ("demo/deformable_detr.py",),
    "published": ("demo/ms_detr_published.py",),
    "by_hand": ("demo/ms_detr.py",),
    "normalised": ("demo/ms_detr_normalised.py",),
    "halved": ("demo/ms_detr_normalised.py", HALVED),
    "fading": ("demo/ms_detr_fading.py",),
    "fading_by_pairs": ("demo/ms_detr_fading.py", BY_PAIRS),
}
DEMO = Study("demo", BALANCE, ("train.max_iter=1600",))
LONG_DEMO = Study("demo_long", BALANCE, ("train.max_iter=6400",))
NUCLEI = Study(
    "nuclei",
    {
        "baseline": ("nuclei/deformable_detr.py",),
        "published": ("nuclei/ms_detr_published.py",),
        "published_o2m_masks": ("nuclei/ms_detr_published_o2m_masks.py",),
        "halved": ("nuclei/ms_detr_normalised.py", HALVED),
        "fading": ("nuclei/ms_detr_fading.py",),
    },
    on_test_split("nuclei"),
)
COURSES = Study(  # on the validation split, every second epoch
    "bccd_val",
    {name: (config,) for name, config in THREE.items()},
    ("train.eval_epochs=2",),
)


def curve(numbers: Sequence[int], unit: str, names: Sequence[str], usual: int) -> Table:
    """A table and a curve of rows of blood cells over a number; their own rows have the usual one.

    Each number is a group of its own.
    """
    points = {
        str(number): {
            name: name if number == usual else f"{name}_{number}_{unit}" for name in names
        }
        for number in sorted((*numbers, usual))
    }
    return Table(BLOOD, tuple(tuple(at.values()) for at in points.values()), unit, points)


def sweep(key: str, usual: float) -> Table:
    """A table and a curve of MS-DETR on blood cells over a setting of its assigner."""
    values = sorted((*ASSIGNER[key], usual))
    rows = {str(v): "published" if v == usual else f"{key}_{v}" for v in values}
    points = {value: {"published": row} for value, row in rows.items()}
    others = (row for row in rows.values() if row != "published")
    return Table(BLOOD, (("published", *others),), key, points)


TABLES = {
    "methods": Table(
        BLOOD,
        (
            (
                "baseline", "published", "balanced", "normalised", "fading", "fading_by_pairs",
                "order_only",
            ),
            ("order_only", "published", "balanced"),
        ),
    ),
    "balance": Table(DEMO, (tuple(BALANCE),)),
    "long_balance": Table(
        LONG_DEMO, (("baseline", "published", "normalised", "halved", "fading"),)
    ),
    "implementations": Table(BLOOD, (("published", "a", "b", "d", "own_heads"),)),
    "family": Table(BLOOD, tuple((name, f"ms_detr_{name}") for name in FAMILY)),
    "k": sweep("k", 6),
    "threshold": sweep("threshold", 0.4),
    "alpha": sweep("alpha", 0.3),
    "quota": sweep("quota", 0.25),
    "images": curve(IMAGES, "images", tuple(TWO), usual=205),
    "iterations": curve(ITERATIONS, "iterations", tuple(THREE), usual=2000),
    "queries": curve(QUERIES, "queries", tuple(TWO), usual=60),
    "nuclei": Table(NUCLEI, (tuple(NUCLEI.rows),)),
    "courses": Table(COURSES, (tuple(THREE),)),
}  # fmt: skip


def runs_of(table: Table, output: Path, seeds: Sequence[int]) -> list[Run]:
    """All trainings of a table, seed by seed."""
    study = table.study
    names = dict.fromkeys(name for group in table.groups for name in group)
    rows = {name: study.row(name) for name in names}
    return [
        Run(name, config, tuple(overrides), seed, output / study.folder / name / f"seed{seed}")
        for seed in seeds
        for name, (config, *overrides) in rows.items()
    ]


def expect_data(runs: Sequence[Run]) -> None:
    """Raise MissingFileError, which says what makes it, where a file of annotations isn't there."""
    for row in dict.fromkeys((run.config, run.overrides) for run in runs):
        loaders = load(*row).dataloader
        for split in ("train", "test"):
            place = Path(loaders[split].dataset.annotations)
            if place.is_file():
                continue
            name, _, number = place.stem.partition("_")
            if number and (whole := place.with_stem(name)).is_file():
                hint = f"python tools/coco_subset.py {whole} {number} writes it"
            else:
                hint = "docs/evidence.md says where the data is from; `make demo` makes the demo's"
            raise MissingFileError(f"no file {place}: {hint}")


def points_of(table: Table, runs: Sequence[Run]) -> list[dict[str, Any]]:
    """What the points of a curve have led to, as `draw_sweep` takes it; without failed runs."""
    return [
        point((f"{table.curve}={value}", f"supervision={supervision}"), run, TASKS)
        for value, rows in table.points.items()
        for supervision, name in rows.items()
        for run in runs
        if run.name == name and run.finished()
    ]


def report(table: Table, runs: Sequence[Run], draws: int) -> str:
    """Tables of every group, in Markdown, and AP over iterations where it was measured."""
    texts = []
    for group in table.groups:
        chosen = [run for name in group for run in runs if run.name == name]
        texts += [ap_table(chosen), differences(chosen, draws)]
    if measured_courses(runs):
        texts.append(course_table(runs))
    return "\n\n".join(texts) + "\n"


def draw(table: Table, runs: Sequence[Run], place: Path) -> Iterator[Path]:
    """Draw a table: its curve, or a bar a row, and AP over iterations where it was measured."""
    if table.curve:
        if points := points_of(table, runs):
            yield draw_sweep(points, place.with_suffix(".png"))
    else:
        yield draw_comparison(named_aps(runs), place.with_suffix(".png"))
    if courses := measured_courses(runs):
        yield draw_courses(courses, place.with_name(f"{place.name}_over_iterations.png"))


def run(args: argparse.Namespace) -> int:
    """Train what is missing of a table, print it, write it and draw it."""
    table = TABLES[args.table]
    expect_own_seeds(args.seeds)
    runs = runs_of(table, args.output, args.seeds)
    expect_data(runs)
    failed = train_missing(runs, args.jobs, args.threads)
    text = report(table, runs, args.draws)
    print(text)
    place = args.output / args.table
    write_text(place.with_suffix(".md"), text)
    for picture in draw(table, runs, place):
        print(f"drawn: {picture}")
    expect_none(failed)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", choices=TABLES)
    add_run_arguments(parser, SEEDS, Path("output/evidence"))
    add_draws(parser)
    args = parser.parse_args(argv)
    with insisting():
        return with_reader(lambda: run_command(lambda: run(args)))


if __name__ == "__main__":
    raise SystemExit(main())
