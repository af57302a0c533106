"""Where a run's messages go."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from detectron2.utils import comm
from detectron2.utils.collect_env import collect_env_info

from ..errors import short_message
from ..pipes import Terminal

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


def _is_news(record: logging.LogRecord) -> bool:
    """Whether the terminal needs a record: an error that ends the command is printed by it."""
    error = record.exc_info[1] if record.exc_info else None
    return error is None or short_message(error) is None


def setup_logging(folder: str | Path) -> None:
    """Log to ``folder/log.txt``, and in the main process to stdout.

    A second call moves the log to another folder, where Detectron2's would write to both.

    Raises:
        OSError: the folder, which is ``train.output_dir``, can't be made or written to.
    """
    folder = Path(folder)
    rank = comm.get_rank()
    name = f"log.rank{rank}.txt" if rank else "log.txt"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handlers: list[logging.Handler] = [logging.FileHandler(folder / name, encoding="utf-8")]
    except OSError as error:
        raise OSError(f"train.output_dir {folder} can't be written to: {error.strerror}") from error
    if rank == 0:
        terminal = Terminal(sys.stdout)
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


def environment() -> str:
    """Detectron2's description of the machine and of the versions in use."""
    try:
        return collect_env_info()
    except Exception as error:  # a description isn't worth a training
        return f"the environment could not be described: {type(error).__name__}: {error}"
