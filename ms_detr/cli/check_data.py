"""Tell all that is wrong with a dataset, show it on a page, write a mended copy.

ms-detr check-data data/mine --report output/mine.html
ms-detr check-data train.json --images train --config configs/demo/ms_detr.py --fix data/mended

The exit status is 0 if nothing is wrong, 1 if something was found, 2 if the data can't be read.
"""

import argparse
from typing import TYPE_CHECKING

from ms_detr.errors import ConfigError, counted

from ._arguments import count, expect_folder, path
from ._reading import add_voc_arguments, options_of

if TYPE_CHECKING:
    from ms_detr.data.check import Checked, Limits, Mended

FOUND = 1  # exit code where something is wrong
EXAMPLES = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    add = parser.add_argument
    add("data", type=path, metavar="DATA", help="a COCO JSON file, or a folder of a form that "
        "`ms-detr import` knows, with all its splits")  # fmt: skip
    add("--images", type=path, metavar="DIR", help="of a JSON file (default: found beside it)")
    add("--format", default="auto",
        help="of a folder that may be of several: coco, voc, yolo, labelme, masks")  # fmt: skip
    add_voc_arguments(add)
    add("--config", metavar="CONFIG", help="its queries, feature levels and sizes of images count "
        "(default: 900 queries, strides 8 to 64, images of 800 x 1333)")  # fmt: skip
    add("--opts", nargs="*", default=[], metavar="key=value", help="overrides of that config")
    add("--report", type=path, metavar="FILE.html", help="a page with pictures and histograms")
    add("--fix", type=path, metavar="DIR", help="write a mended copy there; DATA stays as it is")
    add("--link", action="store_true", help="link the copy's images instead of copying them")
    add("--headers-only", action="store_true",
        help="decode no images: faster, but finds no damaged pixels and no duplicates")  # fmt: skip
    add("--max-pixels", type=count, metavar="N",
        help="of images of more the header alone is read (default: 89478485)")  # fmt: skip
    add("--json", action="store_true", help="print all of it as JSON")


def run(args: argparse.Namespace) -> int:
    """Look, tell, and write what was asked for; 1 if something is wrong."""
    import json

    from ms_detr.data.check import check_dataset, locate, write_mended
    from ms_detr.data.check.image_files import MOST_PIXELS
    from ms_detr.signals import raised

    _expect_places(args)
    with raised():
        located = locate(args.data, args.images, args.format, options_of(args))
        checked = check_dataset(
            located,
            limits=_limits(args),
            pixels=not args.headers_only,
            most_pixels=args.max_pixels or MOST_PIXELS,
            progress=True,
        )
        if not args.json:
            print("\n".join(_told(checked)), flush=True)
        if args.report is not None:
            from ms_detr.report import write_sheet

            write_sheet(checked, args.report)
        mended = write_mended(checked, args.fix, args.link, progress=True) if args.fix else None
    if args.json:
        extra = {} if mended is None else {"fixed": mended.as_json()}
        print(json.dumps(checked.as_json() | extra, indent=1))
    else:
        print("\n".join(_written(args, mended)), end="\n" if args.report or mended else "")
    return FOUND if checked.groups else 0


def _expect_places(args: argparse.Namespace) -> None:
    """Make sure, before anything is read, that what was asked for can be written."""
    from ms_detr.data.formats.importing import expect_free, expect_outside

    if args.opts and args.config is None:
        raise ConfigError("--opts are overrides of the config that --config names")
    if args.link and args.fix is None:
        raise ConfigError("--link is of the copy that --fix writes")
    if args.fix is not None:
        expect_free(args.fix)
        if args.data.is_dir():
            expect_outside(args.data, args.fix, "--fix")
    if args.report is not None:
        if args.report.is_dir():
            raise ConfigError(f"{args.report} is a folder: give a file")
        if args.report.exists() and args.report.suffix.lower() not in (".html", ".htm"):
            raise ConfigError(f"{args.report} is there already and no page: choose another place")
        expect_folder(args.report.parent)


def _limits(args: argparse.Namespace) -> "Limits | None":
    from ms_detr.config import load
    from ms_detr.data.check import limits_of

    if args.config is None:
        return None
    return limits_of(load(args.config, args.opts), args.config)


def _told(checked: "Checked") -> list[str]:
    """The tables: what there is, and what is wrong with it."""
    from tabulate import tabulate

    titles = ("split", "images", "empty", "objects", "crowds", "most in an image")
    rows = [
        (name, split.images, split.empty, split.objects, split.crowds, split.most)
        for name, split in checked.statistics.splits.items()
    ]
    classes = counted(len(checked.objects.names), "class", "classes")
    head = f"{checked.located.folder}: {checked.located.form.name}, {classes}"
    lines = [head, tabulate(rows, titles, intfmt=","), ""]
    if not checked.groups:
        return [*lines, "nothing is wrong"]
    found = [
        (
            group.kind.code,
            group.count,
            "error" if group.kind.is_error else "warning",
            group.what,
        )
        for group in checked.groups
    ]
    lines.append(tabulate(found, ("kind", "count", "", "what"), intfmt=","))
    for group in checked.groups:
        lines.append(f"\n{group.kind.code}: {group.what}. {group.kind.remedy}")
        lines += [f"  {finding}" for finding in group.findings[:EXAMPLES]]
        if group.count > EXAMPLES:
            lines.append(f"  and {group.count - EXAMPLES:,} more")
    return lines


def _written(args: argparse.Namespace, mended: "Mended | None") -> list[str]:
    """Where the page and the copy are, what was mended, and what is left."""
    lines = [] if args.report is None else [f"\npage: {args.report}"]
    if mended is None:
        return lines
    lines.append(
        f"\n{mended.folder}: {mended.form}, {mended.images:,} images, {mended.objects:,} objects"
    )
    lines += [f"  mended: {line}" for line in mended.problems.lines()]
    lines += [f"  left: {group.count:,} {group.what}" for group in mended.rest.groups]
    return lines
