"""Training images that turn out bad end the run or, up to a limit, give way to others."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

from ..errors import ConfigError, MissingFileError
from .images import ImageError

logger = logging.getLogger(__name__)

KEY = "dataloader.train.max_bad_images"
REPLACES = "replaces"  # in a model input: the bad images whose place it takes, file -> problem
BAD = (MissingFileError, ImageError)


def map_or_replace(
    mapper: Callable[[dict], dict], records: Sequence[dict], index: int, limit: int
) -> dict:
    """Map a record or, if its image is bad, the next one of the dataset whose image is not.

    Which one that is depends on the index and the files alone.

    Args:
        limit: how many bad images may be passed over.

    Returns:
        The model input, with the bad ones under `REPLACES` if there were any.

    Raises:
        MissingFileError, ImageError: of the first bad image, if there are too many in a row.
    """
    problems: dict[str, str] = {}
    first: Exception | None = None
    for step in range(min(limit + 1, len(records))):
        record = records[(index + step) % len(records)]
        try:
            mapped = mapper(record)
        except BAD as error:
            first = first or error
            problems[record["file_name"]] = str(error)
            continue
        return mapped | {REPLACES: problems} if problems else mapped
    assert first is not None
    raise type(first)(f"{first} ({KEY}, now {limit}, is how many bad images are passed over)")


class BadImages:
    """Counts the bad images of a run, as this process comes to know them.

    Args:
        limit: how many different ones are passed over.
    """

    def __init__(self, limit: int):
        if isinstance(limit, bool) or not isinstance(limit, int) or limit < 0:
            raise ConfigError(f"{KEY} must be a whole number of at least 0, got {limit!r}.")
        self.limit = limit
        self.problems: dict[str, str] = {}

    def count(self, batch: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Count and log what a batch had to replace.

        Returns:
            The batch, without `REPLACES`.

        Raises:
            ImageError: there are more bad images than the limit.
        """
        for x in batch:
            for file, problem in x.pop(REPLACES, {}).items():
                if file in self.problems:
                    continue
                self.problems[file] = problem
                number = len(self.problems)
                if number > self.limit:
                    raise ImageError(
                        f"{number} images are bad, {KEY} allows {self.limit}; the last: {problem}"
                    )
                logger.warning("bad image %d of at most %d: %s", number, self.limit, problem)
        return batch
