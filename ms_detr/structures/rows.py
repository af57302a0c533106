"""What the rows of a parameter stand for, for who takes some of them to another model."""

from __future__ import annotations

from enum import Enum
from typing import Protocol, runtime_checkable


class Rows(Enum):
    """What a row is: of a class, by its name; or of one of many that are numbered."""

    CLASSES = "classes"
    NUMBERED = "numbered"


@runtime_checkable
class HasRows(Protocol):
    """A module that tells it of parameters and buffers, by their names in it.

    What a module tells of another one's inside it counts more than what that one tells.
    """

    def rows(self) -> dict[str, Rows]:
        """The parameters whose rows stand for something."""
