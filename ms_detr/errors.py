"""Errors that the person who runs a command can mend, told apart from bugs by their type."""

from __future__ import annotations

import traceback
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

USER_ERROR = 2  # exit code of a process that ends with a `UserError`; argparse's, too


class UserError(Exception):
    """Something that its user can mend: the message says what is wrong, where, and what to do.

    It is shown as one line, since a traceback would only bury it. Every kind can be pickled, with
    its attributes, and so comes out of a loader's worker or a started process as what it is.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        kind, args, *attributes = tuple(super().__reduce__())
        return _restored, (kind, args), *attributes


def _restored(kind: type[UserError], args: tuple[Any, ...]) -> UserError:
    """Return an error as it was, whatever its kind is made with; its attributes come later."""
    error = kind.__new__(kind, *args)
    error.args = error.args or args  # an OSError whose kind has its own __init__ takes none
    return error


class ConfigError(UserError, ValueError):
    """A config, an override or a command's argument is wrong, or two of them don't go together."""


class DataError(UserError, ValueError):
    """An annotation file, an image or a dataset is not what it has to be."""


class CheckpointError(UserError, ValueError):
    """A checkpoint can't be read, or doesn't fit."""


class NonFiniteError(UserError, FloatingPointError):
    """A prediction, cost or loss is NaN or infinite; the message says which."""


class MissingFileError(UserError, FileNotFoundError):
    """A file that was named is not there."""


class MissingPackageError(UserError, ImportError):
    """A package that what was asked for needs is not installed."""


class SystemLimitError(UserError, OSError):
    """The system lacks, or refuses, what is needed: memory, space, files, processes, a network."""


class OutOfMemoryError(SystemLimitError):
    """A training step needs more memory than there is; the message names its images."""


class RemoteTraceback(Exception):
    """Where an error was raised in another process: the cause of that same error in this one."""


@dataclass(frozen=True)
class SentError:
    """An error on its way to another process, with its traceback, which pickling loses."""

    error: Exception
    traceback: str

    @classmethod
    def of(cls, error: Exception) -> SentError:
        """Pack an error where it was caught."""
        return cls(error, "".join(traceback.format_exception(error)))

    def received(self) -> Exception:
        """Return the error, to be raised here; its cause shows the traceback that it had there."""
        self.error.__cause__ = RemoteTraceback(f"\n{self.traceback}")
        return self.error


def short_message(error: BaseException) -> str | None:
    """Return the message of an error that its user can mend, or None for any other: a bug.

    What the operating system says about a file or folder that it names is such a message, too.
    """
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return None


def listed(names: Iterable[object], most: int = 10, separator: str = ", ") -> str:
    """Name the first of many for a message, and say how many more there are."""
    texts = [*map(str, names)]
    more = f" and {len(texts) - most} more" if len(texts) > most else ""
    return separator.join(texts[:most]) + more


def counted(number: int, what: str, many: str = "") -> str:
    """Return a number and what it counts: "1 image", "2 images"; ``many`` if an s isn't enough."""
    return f"{number:,} {what if number == 1 else many or what + 's'}"


def one_line(error: BaseException) -> str:
    """Return what an error says in one line, or its type's name if it says nothing."""
    return " ".join(str(error).split()) or type(error).__name__


def shortened(value: object, length: int = 120) -> str:
    """Return a value as text for a message, cut if it is longer."""
    text = str(value)
    return text if len(text) <= length else text[:length] + "..."
