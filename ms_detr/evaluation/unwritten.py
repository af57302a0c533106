"""Results that could not be written are results all the same."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ..errors import SystemLimitError
from ..files import reason


class UnwrittenError(SystemLimitError):
    """The files of an evaluation could not be written.

    Attributes:
        results: what the evaluation has led to.
    """

    def __init__(self, message: str, results: Mapping[str, Any]):
        super().__init__(message)
        self.results = results


@contextmanager
def keeping(results: Mapping[str, Any]) -> Iterator[None]:
    """Raise UnwrittenError with the results where the block can't write its files."""
    try:
        yield
    except OSError as error:
        raise UnwrittenError(
            f"{error.filename}: {reason(error)}; the results are in the log alone", results
        ) from error
