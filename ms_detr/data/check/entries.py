"""What is checked: the images and objects of a dataset, as its files have them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Size = tuple[int, int]  # width and height in pixels


@dataclass(frozen=True)
class ImageEntry:
    """An image that a dataset lists.

    Args:
        name: as the dataset has it.
        split: train, val or test, if there are some.
        told: the size that the labels give, if they give one that can be.
        id: of a COCO file.
    """

    path: Path
    name: str
    split: str | None
    told: Size | None = None
    id: int | None = None

    def place(self, number: int) -> dict[str, Any]:
        """Return where it is, for a `Finding`.

        Args:
            number: its place among the images.
        """
        return {"split": self.split, "file": self.name, "image_id": self.id, "image": number}


@dataclass(frozen=True)
class ObjectEntry:
    """An object that a dataset lists.

    Args:
        image: its image's place among those of the dataset.
        category: the name of its class.
        box: x, y, width, height in pixels, finite.
        segmentation: as the file has it; None if there is none.
        id: of a COCO file.
    """

    image: int
    category: str
    box: tuple[float, float, float, float]
    segmentation: Any
    crowd: bool
    id: int | None = None


@dataclass(frozen=True)
class Source:
    """A dataset that was opened.

    Attributes:
        form: name of its form.
        classes: that it lists, those of train first; None if objects alone tell them.
        headings: classes that only head others, which need no objects.
        objects: yields them, for images of these sizes (None where nothing tells it), and adds
            what is wrong with them to the findings. May be called again.
    """

    form: str
    images: Sequence[ImageEntry]
    objects: Callable[[Sequence[Size | None]], Iterator[ObjectEntry]]
    classes: Sequence[str] | None = None
    headings: frozenset[str] = frozenset()
