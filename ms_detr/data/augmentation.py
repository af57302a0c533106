"""The training augmentations of the DETR family, put together from Detectron2's."""

import sys
from collections.abc import Sequence

import numpy as np
from detectron2.data import transforms as T
from detectron2.data.transforms import (
    AugInput,
    Augmentation,
    AugmentationList,
    FixedSizeCrop,
    RandomCrop,
    RandomFlip,
    ResizeTransform,
)
from fvcore.transforms.transform import PadTransform, Transform

from ..errors import ConfigError

DETR_SHORT_EDGES = tuple(range(480, 801, 32))


class _KeepsAPixel(Augmentation):
    """Mixin for Detectron2's resizings, which round the short side of a narrow image to zero."""

    def get_transform(self, image: np.ndarray) -> Transform:
        resize = super().get_transform(image)
        if not isinstance(resize, ResizeTransform) or min(resize.new_h, resize.new_w) > 0:
            return resize
        size = max(1, resize.new_h), max(1, resize.new_w)
        return ResizeTransform(resize.h, resize.w, *size, resize.interp)


class ResizeShortestEdge(_KeepsAPixel, T.ResizeShortestEdge):
    """Detectron2's augmentation, but no side gets shorter than a pixel (3000 x 1 to 1333 x 1)."""


class ResizeScale(_KeepsAPixel, T.ResizeScale):
    """Detectron2's augmentation, but no side gets shorter than a pixel (3000 x 10 to 102 x 1)."""


class RandomChoice(Augmentation):
    """Apply one of several chains of augmentations, drawn with equal probability.

    Args:
        chains: lists of Detectron2 augmentations or transforms.
    """

    def __init__(self, chains: Sequence[Sequence[Augmentation | Transform]]):
        super().__init__()
        if len(chains) == 0:
            raise ConfigError("RandomChoice needs at least one chain of augmentations, got none.")
        self.chains = [AugmentationList(list(chain)) for chain in chains]

    def __call__(self, aug_input: AugInput) -> Transform:
        return self.chains[np.random.randint(len(self.chains))](aug_input)

    def __repr__(self) -> str:
        return f"RandomChoice({self.chains})"


class PadToSquare(Augmentation):
    """Pad at the right and the bottom to a square. The padding is image to the model.

    Args:
        size: side in pixels; larger images are an error.
        pad_value: the grey, from 0 to 255.
    """

    def __init__(self, size: int, pad_value: float = 128.0):
        super().__init__()
        (self.size,) = _lengths("size", [size])
        self.pad_value = pad_value

    def get_transform(self, image: np.ndarray) -> Transform:
        height, width = image.shape[:2]
        if max(height, width) > self.size:
            raise ConfigError(
                f"{width} x {height} pixels don't fit into a square of {self.size}: shrink images "
                "before PadToSquare"
            )
        missing = self.size - width, self.size - height
        return PadTransform(0, 0, *missing, width, height, self.pad_value)


def resize_and_flip(
    short_edge: int | None = None, max_size: int = sys.maxsize, flip: float = 0.0
) -> list[Augmentation]:
    """Resize to one size, and flip.

    Args:
        short_edge: length of the shorter side in pixels; None leaves images as they are.
        max_size: limit in pixels of the longer side.
        flip: probability of the horizontal flip.

    Returns:
        Augmentations for :class:`ms_detr.data.DetrMapper`.
    """
    augmentations: list[Augmentation] = []
    if short_edge is not None:
        edges = _lengths("short_edge", [short_edge])
        augmentations.append(ResizeShortestEdge(edges, max_size, "choice"))
    if flip:
        augmentations.append(RandomFlip(flip))
    return augmentations


def detr_augmentations(
    short_edges: Sequence[int] = DETR_SHORT_EDGES,
    max_size: int = 1333,
    crop_short_edges: Sequence[int] = (400, 500, 600),
    crop_range: tuple[int, int] = (384, 600),
    flip: float = 0.5,
) -> list[Augmentation]:
    """Flip, then resize, or resize, crop and resize again, as DETR (arXiv 2005.12872, A.4).

    Args:
        short_edges: lengths in pixels from which the shorter side is drawn.
        max_size: limit in pixels of the longer side.
        crop_short_edges: lengths of the shorter side before a crop.
        crop_range: least and greatest side of a crop; height and width are drawn separately,
            and are never longer than the image.
        flip: probability of the horizontal flip.

    Returns:
        Augmentations for :class:`ms_detr.data.DetrMapper`. Sizes are rounded as Detectron2 does
        it, which can differ by one pixel from the authors' code.
    """

    def resize() -> Augmentation:
        return ResizeShortestEdge(_lengths("short_edges", short_edges), max_size, "choice")

    before_crop = ResizeShortestEdge(
        _lengths("crop_short_edges", crop_short_edges), sample_style="choice"
    )
    crop = RandomCrop("absolute_range", _lengths("crop_range", crop_range))
    return [RandomFlip(flip), RandomChoice([[resize()], [before_crop, crop, resize()]])]


def micrograph_augmentations(short_edge: int) -> list[Augmentation]:
    """DETR's augmentation around a size, and a vertical flip: pictures without an up.

    Args:
        short_edge: length in pixels of the shorter side that images are tested at; DETR's lengths
            are multiplied by its ratio to 640, the middle of them.

    Returns:
        Augmentations for :class:`ms_detr.data.DetrMapper`.
    """
    _lengths("short_edge", [short_edge])

    def scaled(*lengths: int) -> tuple[int, ...]:
        return tuple(max(1, round(length * short_edge / 640)) for length in lengths)

    least, most = scaled(384, 600)
    sizes = scaled(*DETR_SHORT_EDGES), sys.maxsize, scaled(400, 500, 600)
    turned = RandomFlip(0.5, horizontal=False, vertical=True)
    return [turned, *detr_augmentations(*sizes, crop_range=(least, most))]


def lsj_augmentations(
    size: int = 1024,
    min_scale: float = 0.1,
    max_scale: float = 2.0,
    flip: float = 0.5,
    pad_value: float = 128.0,
) -> list[Augmentation]:
    """Make large-scale jitter: flip, resize by much or little, then crop or pad to a square.

    After Ghiasi et al., arXiv 2012.07177. The image is scaled to fit a square of ``size`` times the
    scale. What is longer than ``size`` is cropped at a random place; what is shorter is padded at
    the right and the bottom with grey, which is image to the model: no padding mask covers
    it. Masks and boxes end where the image ends.

    Args:
        size: side in pixels of every augmented image.
        min_scale, max_scale: between which the scale is drawn, uniformly.
        flip: probability of the horizontal flip.
        pad_value: the grey, from 0 to 255.
    """
    (side,) = _lengths("size", [size])
    if not 0 < min_scale <= max_scale:
        raise ConfigError(
            f"min_scale and max_scale must be positive and ascend, got {min_scale} and {max_scale}."
        )
    return [
        RandomFlip(flip),
        ResizeScale(min_scale, max_scale, side, side),
        FixedSizeCrop((side, side), pad_value=pad_value),
    ]


def _lengths(name: str, values: Sequence[int]) -> tuple[int, ...]:
    """Check lengths and make them plain integers, which those of a config's list need not be."""
    lengths = tuple(int(value) for value in values)
    if not lengths or min(lengths) < 1:
        raise ConfigError(f"{name} must be positive lengths in pixels, got {list(values)}.")
    return lengths
