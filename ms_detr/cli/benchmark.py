"""Measure speed. `step`: training steps of several configs against the first one."""

import argparse
import json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    what = parser.add_subparsers(dest="what", required=True, metavar="WHAT")
    step = what.add_parser("step", help="a training step, data loading left out")
    step.add_argument("--config-file", nargs="+", required=True, dest="configs")
    step.add_argument("--rounds", type=int, default=9, help="interleaved rounds (default: 9)")
    step.add_argument("--steps", type=int, default=5, help="steps a round (default: 5)")
    step.add_argument("--threads", type=int, default=None, help="CPU threads")
    step.add_argument("--json", action="store_true", help="print JSON instead of a table")
    step.add_argument("--opts", nargs="*", default=[], help="overrides, key=value, for all configs")


def run(args: argparse.Namespace) -> int:
    """Measure, and print a table or JSON."""
    from tabulate import tabulate

    from ms_detr.benchmarks.step import compare_steps

    rows = compare_steps(args.configs, args.opts, args.rounds, args.steps, args.threads)
    if args.json:
        print(json.dumps(rows, indent=1))
    else:
        print(tabulate(rows, headers="keys", tablefmt="pipe", floatfmt=".3f"))
    return 0
