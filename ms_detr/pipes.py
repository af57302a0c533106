"""Output that another command reads, and may stop reading, as `head` does."""

from __future__ import annotations

import logging
import os
import select
import sys
from collections.abc import Callable
from typing import TextIO

from .errors import USER_ERROR
from .files import FULL

logger = logging.getLogger(__name__)

READER_GONE = 141  # exit code, the shells' for SIGPIPE


def with_reader(command: Callable[[], int]) -> int:
    """Run a command, and end in silence when nobody reads its output any more.

    Python ignores SIGPIPE, which ends other commands then, and complains once more when it
    flushes its streams at exit. What is closed from the start is written to nowhere.

    Returns:
        The command's exit code; 141 where the reader is gone, 2 where the output's disk is full.
    """
    _open_closed()
    try:
        try:
            status = command()
        except SystemExit:  # argparse's, after it has printed
            _flush()
            raise
        _flush()
        return status
    except BrokenPipeError:
        # It may be any other pipe's, such as one to a worker.
        gone = [stream for stream in (sys.stdout, sys.stderr) if _reader_is_gone(stream)]
        if not gone:
            raise
        for stream in gone:
            silence(stream)
        return READER_GONE
    except OSError as error:
        if error.errno not in FULL or error.filename is not None:
            raise  # the streams have no names
        for stream in (sys.stdout, sys.stderr):
            if _is_full(stream):  # it would complain once more at exit
                silence(stream)
        print(f"error: the output can't be written: {error.strerror}", file=sys.stderr, flush=True)
        return USER_ERROR


def silence(stream: TextIO) -> None:
    """Write a stream, and what it still holds, to nowhere from now on."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


class Terminal(logging.StreamHandler):
    """Log to a stream for as long as somebody reads it; the other handlers go on."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Called for an error while a record is written."""
        if not isinstance(sys.exc_info()[1], BrokenPipeError):
            super().handleError(record)
            return
        silence(self.stream)
        logger.warning("nobody reads the standard output any more; the log goes on in its file")


def _open_closed() -> None:
    """Give the process the streams that it was started without, which Python has as None."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            nowhere = open(os.devnull, "w")  # noqa: SIM115  # as long as the process
            os.set_inheritable(nowhere.fileno(), True)  # it took the lowest number: the missing one
            setattr(sys, name, nowhere)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        stream.flush()


def _is_full(stream: TextIO) -> bool:
    """Whether the end of what was written to a stream can't be stored."""
    try:
        stream.flush()
    except OSError as error:
        return error.errno in FULL
    return False


def _reader_is_gone(stream: TextIO) -> bool:
    """Whether a stream is a pipe that nobody reads."""
    try:
        poll = select.poll()
        poll.register(stream.fileno(), 0)
    except (OSError, ValueError):  # it is no file, or closed
        return False
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))
