"""Which errors are for the person who runs a command, and which are bugs."""

from __future__ import annotations

import dis
import os
import re

PACKAGE = __name__.partition(".")[0]
RAISE = dis.opmap["RAISE_VARARGS"]

# Kinds that the package raises about what it was given: a config key, a file, a dataset.
KINDS = (ValueError, TypeError, OSError, ImportError, FloatingPointError)

FRAME = re.compile(r'^  File "(.*)", line \d+, in .*\n    (.*)$', re.MULTILINE)


def short_message(error: BaseException) -> str | None:
    """The message of an error that our own code has raised on purpose; None for any other.

    Such a message says what is wrong, where and what to do, and a traceback would only bury it.
    So does the operating system about a file or folder that it names. Everything else, be it an
    error out of a library or a slip in our code, needs its traceback.
    """
    if not isinstance(error, KINDS):
        return None
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    text = str(error)
    if text.startswith("Caught ") and "Original Traceback" in text:
        return _from_worker(text, type(error).__name__)
    traceback = error.__traceback__
    if traceback is None:
        return None
    while traceback.tb_next is not None:
        traceback = traceback.tb_next
    frame = traceback.tb_frame
    ours = frame.f_globals.get("__name__", "").partition(".")[0] == PACKAGE
    on_purpose = frame.f_code.co_code[traceback.tb_lasti] == RAISE
    return text if ours and on_purpose else None


def _from_worker(text: str, kind: str) -> str | None:
    """The same for an error of a data loader's worker, which arrives as the text of a traceback."""
    frames = FRAME.findall(text)
    named = list(re.finditer(rf"^(?:[\w.]+\.)?{kind}: ", text, re.MULTILINE))
    if not frames or not named:
        return None
    file, code = frames[-1]
    ours = f"{os.sep}{PACKAGE}{os.sep}" in file and code.startswith("raise ")
    return text[named[-1].end() :].strip() if ours else None


def shortened(value: object, length: int = 120) -> str:
    """A value for a message, cut where it is longer."""
    text = str(value)
    return text if len(text) <= length else text[:length] + "..."
