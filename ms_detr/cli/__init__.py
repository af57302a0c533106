"""The `ms-detr` command, one module a verb.

A verb is a module in this folder. Its docstring's first line is the help, and it defines
`add_arguments(parser)` and `run(args) -> int` (the exit status). Its imports stay light: what a
verb needs beyond the standard library it imports inside `run`, so that `ms-detr doctor` works
where everything else is broken.
"""

import argparse
import importlib
import pkgutil
import sys
import traceback
from collections.abc import Callable, Sequence

from ms_detr import __version__
from ms_detr.errors import USER_ERROR, short_message
from ms_detr.pipes import with_reader
from ms_detr.signals import TERMINATED, Terminated, insisting

INTERRUPTED = 130  # exit code, the shells' for Ctrl-C


def verbs() -> dict[str, str]:
    """Map each verb to the module that holds it: `check_data.py` is the verb `check-data`."""
    names = (module.name for module in pkgutil.iter_modules(__path__))
    return {
        name.replace("_", "-"): f"{__name__}.{name}" for name in sorted(names) if name[0] != "_"
    }


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all verbs. The chosen verb's `run` arrives in `args.run`."""
    parser = argparse.ArgumentParser(prog="ms-detr", description="Tools around MS-DETR.")
    parser.add_argument("--version", action="version", version=f"ms_detr {__version__}")
    parser.set_defaults(run=None, debug=False, behind=[])
    subparsers = parser.add_subparsers(title="verbs", metavar="VERB")
    for verb, module_name in verbs().items():
        module = importlib.import_module(module_name)
        summary = (module.__doc__ or "").strip().partition("\n")[0].replace("%", "%%")
        subparser = subparsers.add_parser(
            verb,
            help=summary,
            description=(module.__doc__ or "").strip(),
            formatter_class=argparse.RawDescriptionHelpFormatter,  # examples keep their lines
        )
        subparser.add_argument(
            "--debug", action="store_true", help="show the traceback of an error"
        )
        module.add_arguments(subparser)
        subparser.set_defaults(run=module.run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb.

    Args:
        argv: the arguments; None takes those of the process.

    Returns:
        The exit status: the verb's own, 2 after an error that the user can mend, 130 after Ctrl-C,
        141 where nobody reads the output any more, 143 after SIGTERM.
    """
    with insisting():
        return with_reader(lambda: _run(argv))


def _run(argv: Sequence[str] | None) -> int:
    return run_command(lambda: _parse_and_run(argv))  # Ctrl-C ends the start in a line, too


def _parse_and_run(argv: Sequence[str] | None) -> int:
    parser = build_parser()
    args = _parse(parser, argv)
    if args.run is None:
        parser.print_help()
        return 0
    return run_command(lambda: args.run(args), args.debug)


def run_command(command: Callable[[], int], debug: bool = False) -> int:
    """Run a command; what its user can mend becomes one line on stderr.

    Args:
        command: returns the exit status.
        debug: show the traceback of an error, too.

    Returns:
        The command's status, or the one of its early end: see `main`. Other errors, which are bugs,
        keep their traceback.
    """
    try:
        return command()
    except BrokenPipeError:
        raise  # see `with_reader`
    except KeyboardInterrupt as error:
        message, status = str(error) or "interrupted", INTERRUPTED
    except Terminated as error:
        message, status = error.message, TERMINATED
    except Exception as error:
        reason = short_message(error) or _of_memory(error)
        if reason is None:
            raise
        message, status = f"error: {reason}", USER_ERROR
        if debug:
            traceback.print_exc()
    if message:
        print(message, file=sys.stderr, flush=True)
    return status


def _of_memory(error: Exception) -> str | None:
    """What to say of memory that could not be had; None of any other error."""
    if not isinstance(error, (MemoryError, RuntimeError)):
        return None
    from ms_detr.engine.out_of_memory import is_out_of_memory, told

    return told(error, "take fewer or smaller images at once") if is_out_of_memory(error) else None


def _parse(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse a command line, on which overrides may stand behind flags as well as before them."""
    args, left = parser.parse_known_args(argv)
    left = [*args.behind, *left]
    if left and (not hasattr(args, "opts") or any(word.startswith("-") for word in left)):
        parser.error(f"unrecognized arguments: {' '.join(left)}")
    if left:
        args.opts = [*args.opts, *left]
    return args
