"""Boxes that can't be right, and what their numbers probably mean.

Nothing in a box of two corners says that it isn't one of a corner and a size. What tells are the
images, for objects lie in them. A box counts as misread where it leaves its image and another
convention puts it inside, and only if that convention explains most of the boxes that leave their
images: boxes of whole objects of which the image shows a part ("amodal") leave it as well, but on
all sides.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .plausibility import Finding

# A box may leave its image by two pixels, or by a tenth of its own size.
SLACK_PIXELS, SLACK = 2, 0.1
FEWEST = 5  # boxes that have to speak for another convention ...
MAJORITY = 2 / 3  # ... and this share of those that leave their images
CONTRADICTION = 0.1  # so many to one may speak against it where all boxes are said to follow it
SCALED = 0.6  # of the boxes that evenly spread ones, scaled up, had beyond the image, are there
CORNER = 0.6  # no box reaches beyond this part of width and height, of so many boxes and images:
CORNER_BOXES, CORNER_IMAGES = 100, 20

Corners = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]  # x1, y1, x2, y2; of n boxes


@dataclass(frozen=True)
class Reading:
    """What the four numbers of a box may mean other than COCO's x, y, width, height.

    Args:
        corners: x1, y1, x2, y2 of four numbers as written.
        least: share of all boxes that leave their images in a file that follows it throughout.
        alone: a single box tells it from COCO's; otherwise all of an image have to agree.
    """

    what: str
    remedy: str
    corners: Callable[..., Corners]
    least: float
    alone: bool = False


def _as_written(x: np.ndarray, y: np.ndarray, w: np.ndarray, h: np.ndarray) -> Corners:
    return x, y, x + w, y + h


def _from_center(x: np.ndarray, y: np.ndarray, w: np.ndarray, h: np.ndarray) -> Corners:
    return x - w / 2, y - h / 2, x + w / 2, y + h / 2


READINGS = (
    Reading(
        "look like x1 y1 x2 y2 instead of x y width height",
        "Write x1, y1, x2 - x1, y2 - y1.",
        corners=lambda x1, y1, x2, y2: (x1, y1, x2, y2),
        least=0.25,
        alone=True,
    ),
    Reading(
        "look like y1 x1 y2 x2 instead of x y width height",
        "Write x1, y1, x2 - x1, y2 - y1.",
        corners=lambda y1, x1, y2, x2: (x1, y1, x2, y2),
        least=0.25,
        alone=True,
    ),
    Reading(
        "look like x and y of the centre, width and height, instead of x and y of the upper left "
        "corner",
        "Subtract half of width and height from x and y.",
        corners=_from_center,
        least=0.02,
    ),
    Reading(
        "lie in images whose width and height seem to be swapped, or have x and y swapped "
        "themselves",
        "Swap what is the wrong way round.",
        corners=lambda y, x, h, w: _as_written(x, y, w, h),
        least=0.02,
    ),
)


def box_findings(boxes: np.ndarray, sizes: np.ndarray, image_of: np.ndarray) -> list[Finding]:
    """Find boxes that can't be right as COCO's x, y, width, height.

    Args:
        boxes: (n, 4) x, y, width, height as the file has them.
        sizes: (n, 2) width and height of the image of each.
        image_of: (n,) a number of the image of each, from 0.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        sound = np.isfinite(boxes).all(1) & (boxes[:, 2:] > 0).all(1)
        fractions = sound & _fractions(boxes) & (sizes > 8).all(1)
        findings = [
            Finding(
                np.flatnonzero(fractions),
                "look like fractions of the image's width and height",
                "Multiply them by width and height; where x and y are a centre, as in YOLO's files,"
                " subtract half of width and height.",
            ),
            *_misplaced(boxes, sizes, image_of, sound & ~fractions),
        ]
    return [finding for finding in findings if finding.rows.size]


def _fractions(boxes: np.ndarray) -> np.ndarray:
    """Tell which boxes have numbers from 0 to 1 that aren't all whole, as those of a pixel are."""
    inside = (boxes.min(1) >= 0) & (boxes.max(1) <= 1.01)
    inside[inside] = (boxes[inside] % 1 != 0).any(1)
    return inside


def _misplaced(
    boxes: np.ndarray, sizes: np.ndarray, image_of: np.ndarray, sound: np.ndarray
) -> list[Finding]:
    """Find boxes that lie where they can't belong, among those that are sound in themselves."""
    x1, y1, x2, y2 = _as_written(*boxes.T)
    leaves = sound & ~inside_image((x1, y1, x2, y2), sizes)
    convention = _other_convention(boxes, sizes, image_of, sound, leaves)
    if convention is not None:
        return [convention]
    width, height = sizes.T
    beyond = leaves & ((x1 + x2 > 2 * width) | (y1 + y2 > 2 * height))
    before = leaves & ((x1 + x2 < 0) | (y1 + y2 < 0))
    reach = np.maximum(x2 / width, y2 / height)[sound]
    scale = max(float(np.quantile(reach, 0.99)), 1.0) if reach.size else 1.0
    expected = SCALED * (1 - scale**-2) * len(reach)
    if beyond.sum() >= max(FEWEST, expected) and before.sum() <= CONTRADICTION * beyond.sum():
        return [
            Finding(
                np.concatenate((np.flatnonzero(beyond), np.flatnonzero(sound & ~beyond))),
                f"seem to belong to larger images: {beyond.sum():,} have their centre beyond the "
                f"right or lower edge, and some reach to {scale:.3g} times the width or height",
                "Scale them, or give the images in which they were drawn.",
            )
        ]
    outside = (x1 >= width) | (y1 >= height) | (x2 <= 0) | (y2 <= 0)  # dropped, and reported
    findings = [
        Finding(
            np.flatnonzero((beyond | before) & ~outside),
            "have their centre off the image",
            "They are cut at its edge; correct them unless they mark objects that it shows a part "
            "of.",
            single=True,
        )
    ]
    if (
        len(reach) >= CORNER_BOXES
        and len(np.unique(image_of[sound])) >= CORNER_IMAGES
        and reach.max() <= CORNER
    ):
        findings.append(
            Finding(
                np.flatnonzero(sound),
                f"end before {reach.max():.0%} of the width and height of their images, as if they "
                "belonged to smaller ones, or were per cent",
                "Scale them if so.",
                certain=False,
            )
        )
    return findings


def inside_image(corners: Corners, sizes: np.ndarray) -> np.ndarray:
    """Tell which boxes have a size and lie in their images (n, 2), give or take some slack."""
    x1, y1, x2, y2 = corners
    inside = np.ones(len(sizes), dtype=bool)
    for start, end, size in ((x1, x2, sizes[:, 0]), (y1, y2, sizes[:, 1])):
        slack = np.maximum(SLACK_PIXELS, SLACK * (end - start))
        inside &= (end > start) & (start >= -slack) & (end <= size + slack)
    return inside


def _other_convention(
    boxes: np.ndarray,
    sizes: np.ndarray,
    image_of: np.ndarray,
    sound: np.ndarray,
    leaves: np.ndarray,
) -> Finding | None:
    """Find the reading that explains best why boxes leave their images, if one does.

    Args:
        sound: (n,) boxes to be looked at.
        leaves: (n,) which of them leave their images as COCO's format reads them.
    """
    needed = max(FEWEST, MAJORITY * leaves.sum())
    if leaves.sum() < needed:
        return None
    fits = [sound & inside_image(reading.corners(*boxes.T), sizes) for reading in READINGS]
    best = int(np.argmax([(leaves & fit).sum() for fit in fits]))
    reading, fit, misfit = READINGS[best], fits[best], sound & ~fits[best]
    explained = leaves & fit
    if (
        explained.sum() >= reading.least * sound.sum()
        and misfit.sum() <= CONTRADICTION * explained.sum()
    ):
        concerned = fit
    elif reading.alone:
        concerned = explained
    else:  # images in which a box speaks for it, and none against it
        count = image_of.max() + 1
        speak = np.bincount(image_of[explained], minlength=count) > 0
        contradict = np.bincount(image_of[misfit], minlength=count) > 0
        concerned = fit & (speak & ~contradict)[image_of]
    if (concerned & explained).sum() < needed:
        return None
    # Those that leave their images come first, as the examples.
    rows = np.concatenate(
        (np.flatnonzero(explained & concerned), np.flatnonzero(concerned & ~leaves))
    )
    return Finding(rows, reading.what, reading.remedy)
