"""Turn a dataset of another form (VOC, YOLO, LabelMe, masks) into COCO's, images included.

The source stays as it is. All that is wrong with it is told at once and left out; if that is
most of it, or with --strict any of it, nothing is written and the exit status is 2.
"""

import argparse
from typing import TYPE_CHECKING

from ms_detr.errors import counted

from ._arguments import path
from ._reading import add_classes_argument, add_voc_arguments, options_of

if TYPE_CHECKING:
    from ms_detr.data.formats import Imported

SOURCES = ("auto", "coco", "voc", "yolo", "labelme", "masks")
TARGETS = ("coco", "voc", "yolo", "labelme")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    parser.add_argument(
        "form", choices=SOURCES, metavar="FORMAT", help=f"one of {', '.join(SOURCES)}"
    )
    parser.add_argument("source", type=path, metavar="SRC", help="folder of the dataset")
    parser.add_argument(
        "target", type=path, metavar="DST", help="folder that isn't there yet, or is empty"
    )
    parser.add_argument(
        "--split",
        type=float,
        nargs="+",
        metavar="SHARE",
        help="divide all images anew: the share of train, the rest is val; or those of train and "
        "val, the rest is test. Left out, the splits of SRC are taken, and 0.8 if it has none",
    )
    add_classes_argument(parser.add_argument)
    add_voc_arguments(parser.add_argument)
    parser.add_argument("--to", choices=TARGETS, default="coco", help="the form that is written")
    parser.add_argument(
        "--link",
        action="store_true",
        help="link images instead of copying them: hard links, or symbolic ones to another disk",
    )
    parser.add_argument(
        "--strict", action="store_true", help="write nothing if anything is wrong with SRC"
    )
    parser.add_argument("--json", action="store_true", help="print what was found as JSON")


def run(args: argparse.Namespace) -> int:
    """Read, divide, write."""
    import json

    from ms_detr.data.formats import import_dataset
    from ms_detr.signals import raised

    with raised():
        imported = import_dataset(
            args.form,
            args.source,
            args.target,
            split=args.split,
            options=options_of(args),
            to=args.to,
            link=args.link,
            strict=args.strict,
            progress=True,
        )
    if args.json:
        print(json.dumps(imported.as_json(), indent=1))
    else:
        print("\n".join(_report(imported, args.to)))
    return 0


def _report(imported: "Imported", to: str) -> list[str]:
    """Say what was written, what was wrong, and how to train on it."""
    import shlex

    classes = counted(len(imported.classes), "class", "classes")
    lines = [f"{imported.folder}: from {imported.form}, {classes}"]
    lines += [
        f"  {split}: {counted(images, 'image')}, {counted(imported.objects[split], 'object')}"
        for split, images in imported.images.items()
    ]
    if imported.made_splits:
        lines.append("the splits were made here; --split chooses their shares")
    lines += imported.problems.lines()
    lines.append(f"use it: ms-detr train --data {shlex.quote(str(imported.folder))}")
    evaluated = next((split for split in ("val", "test") if split in imported.images), None)
    if to == "coco" and "train" in imported.images and evaluated:
        lines.append("or: ms-detr train CONFIG " + " ".join(_overrides(imported, evaluated)))
    return lines


def _overrides(imported: "Imported", evaluated: str) -> list[str]:
    import shlex

    folder, name = imported.folder, imported.folder.resolve().name
    found = [f"model.num_classes={len(imported.classes)}"]
    for loader, split in (("train", "train"), ("test", evaluated)):
        prefix = f"dataloader.{loader}.dataset"
        found += [
            f"{prefix}.name={name}_{split}",
            f"{prefix}.images={folder / split}",
            f"{prefix}.annotations={folder / 'annotations' / split}.json",
        ]
    return [shlex.quote(word) for word in found]
