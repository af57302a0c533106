"""What is wrong with a dataset that is read: all of it, by kind, with counts and examples."""

from __future__ import annotations

import os
from collections import Counter
from typing import Any

from ...errors import DataError, shortened

EXAMPLES = 3


def printable(text: object) -> str:
    """Return a text as one line that terminals and files take; names of files need not be one."""
    line = " ".join(str(text).split())
    return "".join(character if character.isprintable() else "_" for character in line)


class Problems:
    """Takes problems one by one, and goes on.

    Args:
        folder: of the dataset, which examples are told without.

    Attributes:
        folder: as given.
        lost: how many ``"images"`` and ``"objects"`` were left out.
    """

    def __init__(self, folder: str | os.PathLike = "") -> None:
        self.folder = folder
        self._above = os.path.join(folder, "")
        self._found: dict[str, list[str]] = {}
        self._count: Counter[str] = Counter()
        self.lost: Counter[str] = Counter()

    def __bool__(self) -> bool:
        return bool(self._found)

    def lose_image(self, what: str, example: object) -> None:
        """An image is left out; ``what`` is the plural: "images without a label file"."""
        self._add(f"{what}: left out", example)
        self.lost["images"] += 1

    def lose_object(self, what: str, example: object) -> None:
        """An object is left out."""
        self._add(f"{what}: left out", example)
        self.lost["objects"] += 1

    def note(self, what: str, example: object) -> None:
        """Something was mended, or passed over."""
        self._add(what, example)

    def without_folder(self, example: object) -> str:
        """Return an example as it is told: paths begin below the folder of the dataset."""
        text = str(example)
        return text.replace(self._above, "") if self._above else text

    def _add(self, what: str, example: object) -> None:
        self._count[what] += 1
        examples = self._found.setdefault(what, [])
        if len(examples) < EXAMPLES:
            examples.append(shortened(printable(self.without_folder(example))))

    def lines(self) -> list[str]:
        """Return a line a kind: count, kind, examples."""
        lines = []
        for what, examples in self._found.items():
            more = self._count[what] - len(examples)
            tail = f" and {more:,} more" if more else ""
            lines.append(f"{self._count[what]:,} {what}: {'; '.join(examples)}{tail}")
        return lines

    def as_json(self) -> list[dict[str, Any]]:
        """Return the kinds for a script."""
        return [
            {"what": what, "count": self._count[what], "examples": examples}
            for what, examples in self._found.items()
        ]

    def expect_most(self, kept: dict[str, int], source: object) -> None:
        """Raise DataError if more than half of the images, or of the objects, were left out."""
        for kind, count in kept.items():
            if self.lost[kind] > count:
                raise DataError(
                    f"{source}: of {self.lost[kind] + count:,} {kind} {self.lost[kind]:,} can't be "
                    f"used, so it probably is of another form. {'; '.join(self.lines())}"
                )
