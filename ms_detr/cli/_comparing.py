"""`ms-detr evaluate --compare`: models on the same images, in tables and a picture."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ms_detr.run_folder import COMPARED

from ._arguments import expect_folder
from ._evaluating import expect_others, stdout_for_json, write_json

if TYPE_CHECKING:
    from ms_detr.engine import Comparison
    from ms_detr.evaluation import Difference

NUMBERS, PICTURE = "comparison.json", "differences.png"
CLASSES = 12  # that a table has, those of the largest differences


def compare(args: argparse.Namespace) -> int:
    """Compare the first model with each other one; print tables, write numbers and a picture."""
    from ms_detr.engine.comparing import read_models
    from ms_detr.visualization.evaluation import draw_differences

    from ._progress import Counter

    folder = args.output or Path(COMPARED)
    expect_folder(folder)
    given = [Path(name) for name in args.compare]
    expect_others([folder / NUMBERS, folder / PICTURE, args.json], given)
    # Without weights the first override stands in their place.
    overrides = [word for word in (args.weights, *args.opts) if word is not None]
    with stdout_for_json(args.json):
        models = read_models(args.compare, args.config, overrides, folder)
        with Counter(models.steps, "classes") as counter:
            found = models.compare(args.draws, args.seed, counter.advance)
        content = found.numbers()
        write_json(content, folder / NUMBERS)
        first = found.models[0].name
        panels = {
            f"{kind}: {first} - {other}": overall(values)
            for kind, others in found.differences.items()
            for other, values in others.items()
        }
        picture = draw_differences(panels, folder / PICTURE)
        print(_text(found))
        print(f"{folder / NUMBERS}, {picture}")
    write_json(content, args.json)
    return 0


def overall(values: "Mapping[str, Difference]") -> "dict[str, Difference]":
    """The metrics of all classes, and of the classes with the largest differences."""
    from ms_detr.evaluation.table import CLASS_PREFIX

    classes = [
        name
        for name, each in values.items()
        if name.startswith(CLASS_PREFIX) and each.difference == each.difference
    ]
    classes.sort(key=lambda name: -abs(values[name].difference))
    chosen = {*classes[:CLASSES]}
    return {
        name: each
        for name, each in values.items()
        if name in chosen or not name.startswith(CLASS_PREFIX)
    }


def _text(found: "Comparison") -> str:
    """A table a pair and kind, with what was drawn below."""
    from ms_detr.evaluation.table import as_table, percent

    first = found.models[0].name
    tables = []
    for kind, others in found.differences.items():
        for other, values in others.items():
            rows = [
                [
                    name,
                    *(percent(x) for x in (each.first, each.second, each.difference)),
                    f"{percent(each.low)} to {percent(each.high)}" if each.draws else "none",
                    f"{each.better:.3f}" if each.draws else "none",
                ]
                for name, each in overall(values).items()
            ]
            headers = [kind, first, other, "difference", "95% interval", f"p({first} > {other})"]
            tables.append(as_table(rows, headers))
    counts = [
        f"{each.name}: {each.detections} detections on {each.images} of {found.images} images"
        for each in found.models
    ]
    tables.append("\n".join(counts))
    tables.append(f"{found.draws} draws of {found.images} images, seed {found.seed}")
    return "\n\n".join(tables)
