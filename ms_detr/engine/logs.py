"""Where a run's messages go."""

from __future__ import annotations

import logging
import logging.handlers
import platform
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

import torch
from detectron2.utils import comm
from detectron2.utils.collect_env import collect_env_info

from .. import __version__
from ..errors import short_message
from ..files import reason
from ..pipes import Terminal
from ..run_folder import log_of

NAMES = ("ms_detr", "detectron2", "fvcore")
FORMAT = logging.Formatter("[%(asctime)s] %(message)s", "%m/%d %H:%M:%S")
FORMAT_MARKED = logging.Formatter(
    "[%(asctime)s] %(levelname)s (%(name)s): %(message)s", "%m/%d %H:%M:%S"
)


class _Formatter(logging.Formatter):
    """Marks warnings, and leaves out the traceback of an error that the user can mend."""

    def format(self, record: logging.LogRecord) -> str:
        error = record.exc_info[1] if record.exc_info else None
        short = short_message(error) if error is not None else None
        if short is not None:
            message = f"{record.getMessage().strip()} {short}"
            shown = {**record.__dict__, "msg": message, "args": (), "exc_info": None}
            record = logging.makeLogRecord({**shown, "exc_text": None})
        marked = record.levelno >= logging.WARNING
        return (FORMAT_MARKED if marked else FORMAT).format(record)


FOR_THE_FILE = {"for_the_file": True}  # `extra` of what is too long for a terminal


def _is_news(record: logging.LogRecord) -> bool:
    """Whether the terminal needs a record: an error that ends the command is printed by it."""
    if getattr(record, "for_the_file", False):
        return False
    error = record.exc_info[1] if record.exc_info else None
    return error is None or short_message(error) is None


class _Lenient(logging.Handler):
    """A handler whose stream may fail, which is said once on stderr.

    A full disk ends no training for its log, nor does it bury the terminal in tracebacks.
    """

    failing = False

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
        elif not self.failing:
            self.failing = True
            what = getattr(self, "baseFilename", "the log on stdout")
            with suppress(OSError):
                text = f"{what} can't be written ({reason(error)}): it lacks lines from here on"
                print(text, file=sys.stderr, flush=True)


class _Terminal(Terminal, _Lenient):
    """On stdout, while somebody reads it and there is room for it."""


class _Log(_Lenient, logging.handlers.WatchedFileHandler):
    """A log file, opened anew where someone has removed it."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            super().emit(record)
        except OSError:  # out of opening it
            self.handleError(record)

    def close(self) -> None:
        with suppress(OSError):
            super().close()


def _thread_failed(args: threading.ExceptHookArgs) -> None:
    """Do as Python does, but in silence on TensorBoard's thread: its writer raises the error."""
    if type(args.thread).__name__ != "_AsyncWriterThread":
        threading.__excepthook__(args)


def setup_logging(folder: str | Path) -> None:
    """Log to ``folder/log.txt``, and in the main process to stdout.

    A second call moves the log to another folder, where Detectron2's would write to both.

    Raises:
        OSError: the folder can't be made or written to; names it.
    """
    threading.excepthook = _thread_failed
    folder = Path(folder)
    rank = comm.get_rank()
    folder.mkdir(parents=True, exist_ok=True)
    handlers: list[logging.Handler] = [_Log(folder / log_of(rank), encoding="utf-8")]
    if rank == 0:
        terminal = _Terminal(sys.stdout)
        terminal.addFilter(_is_news)
        handlers.append(terminal)
    for handler in handlers:
        handler.setFormatter(_Formatter())
    for logger in map(logging.getLogger, NAMES):
        for old in logger.handlers[:]:
            logger.removeHandler(old)
            old.close()
        for handler in handlers:
            logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        logger.propagate = False


@contextmanager
def through(stream: TextIO) -> Iterator[None]:
    """In the block what goes to stdout of the log goes through another stream."""
    of_all = {handler for name in NAMES for handler in logging.getLogger(name).handlers}
    before = {h: h.setStream(stream) for h in of_all if isinstance(h, _Terminal)}
    try:
        yield
    finally:
        for handler, old in before.items():
            handler.setStream(old or sys.stdout)


def versions() -> str:
    """Return the versions that matter most, in a line."""
    return f"ms_detr {__version__}, PyTorch {torch.__version__}, Python {platform.python_version()}"


def environment() -> str:
    """Return Detectron2's description of the machine and of the versions in use."""
    try:
        return collect_env_info()
    except Exception as error:  # a description isn't worth a training
        return f"the environment could not be described: {type(error).__name__}: {error}"
