"""Images far larger than those of the training, tile by tile.

Two neighbouring tiles share a strip. An object of which one of them sees a part alone lies whole
in the other, if it is no larger than the strip; it belongs to the tile in whose part of the image
its box has its centre, where that part ends in the middle of the strip.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from detectron2.structures import Boxes, Instances

from ..data import ImageError
from ..errors import ConfigError
from .choice import Choice, without_duplicates

OVERLAP = 0.25
# Of the strip: how far a tile's part of the image reaches beyond its middle. A box whose centre
# lies there may come from both tiles, and is not lost where each finds it a little off.
MARGIN = 1 / 8
MERGE_IOU = 0.5  # above it two boxes of a class are one object's
MOST_TILES = 10_000  # of an image
MAX_MASKS = 16 * 2**30  # bytes, one a pixel of each mask


@dataclass(frozen=True)
class Span:
    """A tile along one axis, in pixels: where it begins and ends, and where its own part does."""

    begin: int
    end: int
    own_begin: float
    own_end: float


@dataclass(frozen=True)
class Tile:
    """A part of an image."""

    x: Span
    y: Span

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.y.end - self.y.begin, self.x.end - self.x.begin

    def cut(self, image: np.ndarray) -> np.ndarray:
        """Return the tile's pixels of an image (H, W, C), as a view."""
        return image[self.y.begin : self.y.end, self.x.begin : self.x.end]

    def own(self, found: Instances, size: tuple[int, int]) -> Instances:
        """Return the objects that are the tile's, with boxes as they lie in the image.

        Args:
            found: in the tile. Masks stay the tile's; ``corner`` (n, 2) tells its first pixel.
            size: (height, width) of the image.
        """
        corner = torch.tensor((self.x.begin, self.y.begin))
        boxes = found.pred_boxes.tensor + torch.cat((corner, corner)).to(found.pred_boxes.tensor)
        x, y = ((boxes[:, :2] + boxes[:, 2:]) / 2).unbind(1)
        inside = (self.x.own_begin <= x) & (x <= self.x.own_end)
        inside &= (self.y.own_begin <= y) & (y <= self.y.own_end)
        fields = {**found.get_fields(), "pred_boxes": Boxes(boxes)}
        return Instances(size, **fields, corner=corner.expand(len(found), 2))[inside]


@dataclass(frozen=True)
class Tiling:
    """How images are cut into tiles of one size.

    Attributes:
        size: side of a tile, in pixels of the image; where the image is shorter, it is.
        overlap: the least part of a tile's side that it shares with its neighbour. Objects of up
            to three quarters of that are found whole.
    """

    size: int
    overlap: float = OVERLAP

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ConfigError(f"a tile is of at least 1 pixel, got {self.size}")
        if not 0 <= self.overlap <= 0.9:
            raise ConfigError(f"tiles overlap by 0 to 0.9 of their side, got {self.overlap}")

    def of(self, height: int, width: int, name: str = "an image") -> list[Tile]:
        """Return the tiles of an image, row by row; a single one where it is no larger.

        Raises:
            ImageError: they are more than anybody wants to wait for.
        """
        rows, columns = self._spans(height), self._spans(width)
        count = len(rows) * len(columns)
        if count > MOST_TILES:
            raise ImageError(
                f"{name}: {width} x {height} pixels are {count:,} tiles of {self.size}, more than "
                f"{MOST_TILES:,}: choose larger ones by --tile"
            )
        return [Tile(x, y) for y in rows for x in columns]

    def _spans(self, length: int) -> list[Span]:
        size = min(self.size, length)
        step = max(1, math.floor(size * (1 - self.overlap)))
        steps = math.ceil((length - size) / step)
        begins = [round(i * (length - size) / max(steps, 1)) for i in range(steps + 1)]
        lower, upper = [-math.inf], []
        for left, right in pairwise(begins):
            shared = left + size - right
            middle, margin = right + shared / 2, MARGIN * shared
            lower.append(middle - margin)
            upper.append(middle + margin)
        upper.append(math.inf)
        return [
            Span(begin, begin + size, first, last)
            for begin, first, last in zip(begins, lower, upper, strict=True)
        ]


def whole(height: int, width: int) -> Tile:
    """Return the tile that is all of an image."""
    return Tile(Span(0, width, -math.inf, math.inf), Span(0, height, -math.inf, math.inf))


class Pieces:
    """What is found in the tiles of one image.

    Args:
        name: for messages.
        size: (height, width) of the image.
    """

    def __init__(self, name: str, size: tuple[int, int], tiles: Sequence[Tile]):
        self._name = name
        self._size = size
        self._tiles = tiles
        self._found: dict[int, Instances] = {}

    def add(self, number: int, found: Instances) -> None:
        """Take what is found in the tile of a number."""
        if len(self._tiles) > 1:
            found = self._tiles[number].own(found, self._size)
        self._found[number] = found

    @property
    def are_complete(self) -> bool:
        return len(self._found) == len(self._tiles)

    def joined(self, choice: Choice) -> Instances:
        """Return the wanted objects of the image.

        What two tiles have found is there once: NMS, class by class, leaves the better one.

        Raises:
            ImageError: their masks are too large.
        """
        parts = [self._found[number] for number in range(len(self._tiles))]
        if len(parts) == 1:
            return choice.of(parts[0])
        found = choice.of(without_duplicates(Instances.cat(parts), MERGE_IOU))
        if found.has("pred_masks"):
            check_masks(self._name, len(found), self._size)
            found.pred_masks = _in_image(found)
        found.remove("corner")
        return found


def check_masks(name: str, count: int, size: tuple[int, int]) -> None:
    """Raise ImageError where masks of an image, or of its tiles, would take too much memory."""
    height, width = size
    if count * height * width > MAX_MASKS:
        raise ImageError(
            f"{name}: {count} masks of {width} x {height} pixels take "
            f"{count * height * width / 1e9:.0f} GB: predict it in tiles, or choose fewer objects "
            "by threshold, classes or top"
        )


def _in_image(found: Instances) -> torch.Tensor:
    """Return masks of tiles (n, h, w) as they lie in the image, (n, H, W)."""
    height, width = found.pred_masks.shape[1:]
    whole = torch.zeros((len(found), *found.image_size), dtype=torch.bool)
    for row, mask, (x, y) in zip(whole, found.pred_masks, found.corner.tolist(), strict=True):
        row[y : y + height, x : x + width] = mask
    return whole
