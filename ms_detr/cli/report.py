"""Write what a run's folder tells as one page of HTML: curves, AP, images, config."""

import argparse

from ._arguments import path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    add = parser.add_argument
    add("folder", type=path, metavar="FOLDER", help="train.output_dir of a run, finished or not")
    add("--output", type=path, metavar="FILE", help="the page (default: report.html in FOLDER)")


def run(args: argparse.Namespace) -> int:
    """Write the page, and say where."""
    from ms_detr.report import write_report

    print(write_report(args.folder, args.output))
    return 0
