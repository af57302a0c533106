"""What is said of an annotation file whenever it is loaded, be it read or known from before."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass

from ..errors import DataError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Remark:
    """A sentence about a file, without the file's name that it begins with.

    Args:
        warning: what is logged.
        error: what it is where the annotations aren't trusted; None if it is a warning even then.
        level: of the log.
    """

    warning: str
    error: str | None = None
    level: int = logging.WARNING

    def tell(self, json_file: str, trusted: bool = False) -> None:
        """Log it, or raise the DataError."""
        if self.error is not None and not trusted:
            raise DataError(json_file + self.error)
        logger.log(self.level, "%s", json_file + self.warning)


def tell_all(remarks: Iterable[Remark], json_file: str, trusted: bool = False) -> None:
    """Tell remarks one after the other."""
    for remark in remarks:
        remark.tell(json_file, trusted)
