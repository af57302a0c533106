"""Train and tabulate what docs/evidence.md shows: one command a table.

    python tools/evidence.py methods --jobs 2

trains every row of the table with three seeds, what is finished left out, and prints AP and how far
rows differ from the first of their group. A row belongs to a dataset, not to a table: in whichever
it stands, it is trained once. Curves are drawn besides.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ms_detr.cli import main as ms_detr
from ms_detr.cli._runs import Run
from ms_detr.visualization import draw_sweep

SEEDS = ("0", "1", "2")
LEAN = ("train.report=false", "train.pictures=0")  # of every run


def test_split(name: str) -> tuple[str, ...]:
    """Overrides for a set of micrographs, whose configs evaluate on the validation split."""
    return (
        f"dataloader.test.dataset.name={name}_test",
        f"dataloader.test.dataset.images=datasets/{name}/test",
        f"dataloader.test.dataset.annotations=datasets/{name}/annotations/test.json",
    )


def of_images(number: int) -> tuple[str, ...]:
    """Overrides that train on the first so many images of blood cells."""
    return (
        f"dataloader.train.dataset.annotations=datasets/bccd/annotations/train_{number}.json",
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


BASELINE, PUBLISHED, FADING = (
    f"bccd/{name}.py" for name in ("deformable_detr", "ms_detr_published", "ms_detr_fading")
)
HALVED = "model.criterion.terms.o2m.weight=0.5"
BY_PAIRS = "+model.criterion.terms.o2m.objects={_target_: ms_detr.supervision.AssignedPairs}"
FAMILY = ("plus_plus", "dino", "dn", "hybrid", "group", "ia_bce", "co", "sam_multi_scale")
IMAGES, ITERATIONS, QUERIES = (25, 50, 100), (500, 1000, 4000), (30, 120)
ASSIGNER = {"k": (2, 12), "threshold": (0.2, 0.6), "alpha": (0.0, 0.6), "quota": (0.5, 1.0)}

BLOOD = Study(
    "bccd",
    {
        "baseline": (BASELINE,),
        "published": (PUBLISHED,),
        "balanced": ("bccd/ms_detr_balanced.py",),
        "normalised": ("bccd/ms_detr_normalised.py",),
        "fading": (FADING,),
        "fading_by_pairs": (FADING, BY_PAIRS),
        "order_only": ("bccd/order_only.py",),
        **{name: (f"bccd/ms_detr_{name}.py",) for name in ("a", "b", "d", "own_heads")},
        **{
            f"{key}_{value}": (PUBLISHED, f"model.criterion.terms.o2m.assigner.{key}={value}")
            for key, values in ASSIGNER.items()
            for value in values
        },
        **{name: (f"bccd/family/{name}.py",) for name in FAMILY},
        **{f"ms_detr_{name}": (f"bccd/family/ms_detr_{name}.py",) for name in FAMILY},
        **{
            f"{name}_{number}_images": (config, *of_images(number))
            for number in IMAGES
            for name, config in (("baseline", BASELINE), ("published", PUBLISHED))
        },
        **{
            f"{name}_{number}_iterations": (config, f"train.max_iter={number}")
            for number in ITERATIONS
            for name, config in (
                ("baseline", BASELINE), ("published", PUBLISHED), ("fading", FADING),
            )
        },
        **{
            f"{name}_{number}_queries": (config, f"model.num_queries={number}")
            for number in QUERIES
            for name, config in (("baseline", BASELINE), ("published", PUBLISHED))
        },
    },
    test_split("bccd"),
)  # fmt: skip
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
    test_split("nuclei"),
)
COURSES = Study(  # on the validation split, every second epoch
    "bccd_val",
    {name: BLOOD.rows[name] for name in ("baseline", "published", "fading")},
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
    "images": curve(IMAGES, "images", ("baseline", "published"), usual=205),
    "iterations": curve(
        ITERATIONS, "iterations", ("baseline", "published", "fading"), usual=2000
    ),
    "queries": curve(QUERIES, "queries", ("baseline", "published"), usual=60),
    "nuclei": Table(NUCLEI, (tuple(NUCLEI.rows),)),
    "courses": Table(COURSES, (("baseline", "published", "fading"),)),
}  # fmt: skip


def commands(
    table: Table, output: Path, seeds: Sequence[str], *options: str
) -> Iterator[list[str]]:
    """Words of `ms-detr compare` for each group of a table."""
    for group in table.groups:
        words = ["compare", "--output", str(output / table.study.folder), "--seeds", *seeds]
        words += options
        for name in group:
            words += ["--run", name, *table.study.row(name)]
        yield words


def measured(table: Table, output: Path, seeds: Sequence[str]) -> list[dict[str, object]]:
    """What the points of a curve have led to, as `draw_sweep` takes it."""
    found: list[dict[str, object]] = []
    for value, rows in table.points.items():
        for curve_name, name in rows.items():
            config, *overrides = table.study.row(name)
            for seed in seeds:
                folder = output / table.study.folder / name / f"seed{seed}"
                run = Run(name, config, tuple(overrides), int(seed), folder)
                tasks = {task: run.ap(task) for task in ("bbox", "bbox_nms")}
                values = {table.curve: value, "supervision": curve_name}
                found.append({"values": values, "AP": tasks})
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Train what is missing of a table, print it and draw its curve."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", choices=TABLES)
    parser.add_argument("--output", type=Path, default=Path("output/evidence"))
    parser.add_argument("--seeds", nargs="+", default=SEEDS)
    parser.add_argument("--jobs", default="1", help="trainings side by side (default: 1)")
    args = parser.parse_args(argv)
    table = TABLES[args.table]
    status, texts = 0, []
    for words in commands(table, args.output, args.seeds, "--jobs", args.jobs, "--threads", "1"):
        status = ms_detr(words) or status
        written = args.output / table.study.folder / "compare.md"
        if written.is_file():
            texts.append(written.read_text())
    if texts:
        place = args.output / f"{args.table}.md"
        place.write_text("\n".join(texts))
        print(f"all of it: {place}")
    if table.curve:
        rows = measured(table, args.output, args.seeds)
        print(f"drawn: {draw_sweep(rows, args.output / f'{args.table}.png')}")
    return status


if __name__ == "__main__":
    raise SystemExit(main())
