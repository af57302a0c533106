"""Measure speed. `step`: training steps of several configs against the first one; `op`: the
compiled operator against pure torch.
"""

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
    op = what.add_parser("op", help="the compiled operator against pure torch")
    op.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    op.add_argument("--case", nargs="+", dest="cases", help="such as encoder, 'decoder 900'")
    op.add_argument("--entry", nargs="+", dest="entries", help="such as operator, fused")
    op.add_argument("--rounds", type=int, default=9, help="interleaved rounds (default: 9)")
    op.add_argument("--threads", type=int, default=None, help="CPU threads")
    op.add_argument("--json", action="store_true", help="print JSON instead of a table")


def run(args: argparse.Namespace) -> int:
    """Measure, and print a table or JSON."""
    return _operator(args) if args.what == "op" else _step(args)


def _step(args: argparse.Namespace) -> int:
    from tabulate import tabulate

    from ms_detr.benchmarks.step import compare_steps

    rows = compare_steps(args.configs, args.opts, args.rounds, args.steps, args.threads)
    if args.json:
        print(json.dumps(rows, indent=1))
    else:
        print(tabulate(rows, headers="keys", tablefmt="pipe", floatfmt=".3f"))
    return 0


def _operator(args: argparse.Namespace) -> int:
    from tabulate import tabulate

    from ms_detr.benchmarks import operator

    for asked, known in ((args.cases, operator.CASES), (args.entries, operator.ENTRIES)):
        if unknown := set(asked or ()) - set(known):
            raise ValueError(f"no {sorted(unknown)}; choose from {list(known)}")
    result = operator.compare_operator(
        args.device,
        args.cases or operator.CASES,
        args.entries or tuple(operator.ENTRIES),
        args.rounds,
        args.threads,
    )
    if args.json:
        print(json.dumps(result, indent=1))
        return 0
    machine = result["machine"]
    print(
        ", ".join(
            f"{k}: {v:.0f}" if isinstance(v, float) else f"{k}: {v}" for k, v in machine.items()
        )
    )
    formats = ("", "", "", ".2f", ".2f", ".1f", ".0%", ".0f", ".0f")
    print(tabulate(result["rows"], headers="keys", tablefmt="pipe", floatfmt=formats))
    return 0
