"""Measure the speed of training steps, of the compiled operator, of matching and losses."""

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
    criterion = what.add_parser("criterion", help="matching and losses against the usual loop")
    criterion.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    criterion.add_argument("--batch", type=int, nargs="+", default=[2, 8])
    criterion.add_argument("--queries", type=int, nargs="+", default=[300, 900])
    criterion.add_argument("--objects", type=int, nargs="+", default=[7, 30], help="an image")
    criterion.add_argument("--tokens", type=int, help="of the encoder term (default: as queries)")
    criterion.add_argument("--rounds", type=int, default=9, help="interleaved rounds (default: 9)")
    criterion.add_argument("--threads", type=int, default=None, help="CPU threads")
    criterion.add_argument("--json", action="store_true", help="print JSON instead of a table")
    for parser_of, function in ((step, _step), (op, _operator), (criterion, _criterion)):
        parser_of.set_defaults(measure=function)


def run(args: argparse.Namespace) -> int:
    """Measure, and print a table or JSON."""
    return args.measure(args)


def _criterion(args: argparse.Namespace) -> int:
    from tabulate import tabulate

    from ms_detr.benchmarks.criterion import compare_criterion

    rows = compare_criterion(
        args.device, args.batch, args.queries, args.objects, args.tokens, args.rounds, args.threads
    )
    if args.json:
        print(json.dumps(rows, indent=1))
        return 0
    formats = ("", "", "", "", ".2f", ".2f", ".2f", ".0e", "")
    print(tabulate(rows, headers="keys", tablefmt="pipe", floatfmt=formats))
    return 0


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
