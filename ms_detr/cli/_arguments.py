"""Arguments that several verbs have: their types and checks."""

import argparse
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ms_detr.errors import ConfigError
from ms_detr.paths import expand

OVERRIDE = re.compile(r"[+]{0,2}\w+(\.\w+)*=|~\w+(\.\w+)*$")


def path(text: str) -> Path:
    """A file or folder, for argparse; shells leave the ~ of ``--output=~/runs`` as it is."""
    try:
        return Path(expand(text))
    except ConfigError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def count(text: str) -> int:
    """A whole number of at least 1, for argparse."""
    return _at_least(1, text)


def seed(text: str) -> int:
    """A whole number of at least 0, for argparse."""
    return _at_least(0, text)


def share(text: str) -> float:
    """A number from 0 to 1, for argparse."""
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"must be from 0 to 1, got {text}")
    return value


class Words(argparse.Action):
    """One or more words, for argparse; overrides that stand behind them stay overrides.

    Args:
        of: makes a value of a word.
    """

    def __init__(
        self, option_strings: Sequence[str], dest: str, of: Callable[[str], Any] = str, **more: Any
    ):
        super().__init__(option_strings, dest, nargs="+", **more)
        self._of = of

    def __call__(
        self, parser: object, namespace: argparse.Namespace, words: Any, option: object = None
    ) -> None:
        count = next((i for i, word in enumerate(words) if OVERRIDE.match(word)), len(words))
        if count == 0:
            raise argparse.ArgumentError(self, "expected at least one argument")
        try:
            setattr(namespace, self.dest, [self._of(word) for word in words[:count]])
        except argparse.ArgumentTypeError as error:
            raise argparse.ArgumentError(self, str(error)) from error
        except ValueError as error:
            raise argparse.ArgumentError(self, f"invalid value: {error}") from error
        # The namespace is the verb's own until it is parsed.
        namespace.behind = [*getattr(namespace, "behind", []), *words[count:]]


STDOUT = Path("-")  # in the place of a file


def parts(parser: argparse.ArgumentParser, name: str) -> Callable[..., argparse.ArgumentParser]:
    """Return what adds a part of a verb: ``add(name, summary, *parents)``.

    The summary stands in the verb's help and at the head of the part's own.
    """
    group = parser.add_subparsers(dest=name, required=True, metavar=name.upper())

    def add(part: str, summary: str, *parents: argparse.ArgumentParser) -> argparse.ArgumentParser:
        described = f"{summary[0].upper()}{summary[1:]}."
        return group.add_parser(part, help=summary, description=described, parents=parents)

    return add


def expect_folder(folder: Path) -> None:
    """Make a folder where there is none, before work that ends in a file in it.

    Raises:
        OSError: it can't be made, or nothing can be written into it; names it.
    """
    import tempfile

    from ms_detr.files import explained

    with explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass


def _at_least(least: int, text: str) -> int:
    value = int(text)
    if value < least:
        raise argparse.ArgumentTypeError(f"must be at least {least}, got {value}")
    return value


def add_run_configs(parser: argparse.ArgumentParser) -> None:
    """Add ``--run NAME CONFIG [key=value ...]``, as ``runs``: see `expect_configs`."""
    parser.add_argument(
        "--run",
        action="append",
        nargs="+",
        required=True,
        metavar=("NAME", "CONFIG"),
        dest="runs",
        help="NAME CONFIG [key=value ...]; once for every row of the table",
    )


def expect_configs(runs: Sequence[Sequence[str]]) -> None:
    """Raise ConfigError where a ``--run`` has a name and no config, or another one's name."""
    for words in runs:
        if len(words) < 2:
            raise ConfigError(f"--run {words[0]}: a name needs a config behind it")
    expect_own_names([name for name, *_ in runs])


def expect_own_names(names: Sequence[str]) -> None:
    """Raise ConfigError where two ``--run`` have one name."""
    if len(set(names)) < len(names):
        raise ConfigError(f"--run: every run needs a name of its own, got {names}")


def expect_not(overrides: Sequence[str], taken: Mapping[str, str]) -> None:
    """Raise ConfigError where an override sets a key that an argument (by key) has set already."""
    from ms_detr.overrides import values

    for override in overrides:
        if twice := values([override]).keys() & taken.keys():
            raise ConfigError(f"override '{override}': give {taken[twice.pop()]} instead")
