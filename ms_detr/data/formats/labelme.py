"""LabelMe: a JSON file beside each image.

Points are x, y in pixels from the upper left corner, so edges lie between pixels. Shapes of one
``group_id`` and label are one object. A rectangle is a box; a polygon, a circle and a mask are a
segmentation, too; points and lines have no area. Of a shape's ``flags``, iscrowd, difficult and
truncated are read.
"""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from ...errors import DataError
from ..segmentation import parse, to_bitmap
from .dataset import (
    IMAGES,
    Box,
    Dataset,
    Listed,
    Listing,
    Object,
    Options,
    Picture,
    cut_box,
    differ,
    extent,
    files_below,
    in_split,
    inside,
    is_degenerate,
    polygons_of_box,
    stem,
    write_label,
)
from .label_files import read_json, top_keys
from .problems import Problems, printable
from .runs import box_of, encode

LAYOUT = "a JSON file with shapes beside each image, at the top or in a folder a split"
CORNERS = 72  # of a polygon that stands for a circle
VERSION = "5.4.1"
_FLAGS = ("difficult", "truncated")
Part = tuple[Box, list[list[float]] | dict[str, Any] | None]


def recognises(folder: Path) -> bool:
    """Tell whether one of the first JSON files has shapes."""
    files = files_below(folder, {".json"})
    return any(_has_shapes(folder / name) for name in files[:5])


def find(folder: Path, options: Options, problems: Problems) -> Listing:
    """List the images that have a JSON file."""
    images = files_below(folder, IMAGES)
    by_stem = {stem(name): name for name in images}
    pictures, seen = [], set()
    for name in files_below(folder, {".json"}):
        try:
            content = read_json(folder / name)
            if not isinstance(content, dict) or not isinstance(content.get("shapes"), list):
                raise DataError("without a list of shapes")
        except DataError as error:
            problems.note("JSON files that aren't LabelMe's: passed over", f"{name}: {error}")
            continue
        image = _image_of(name, content.get("imagePath"), by_stem)
        if image in seen:
            problems.note("JSON files of an image that another has: passed over", name)
            continue
        seen.add(image)
        split, written = in_split(image)
        pictures.append(
            Listed(
                folder / image,
                written,
                split,
                partial(_objects, content["shapes"], name, problems),
                (content.get("imageWidth"), content.get("imageHeight")),
            )
        )
    for name in images:
        if name not in seen:
            problems.lose_image("images without a JSON file", name)
    return Listing(pictures)


def place(picture: Picture) -> str:
    """Return where an image is written, below the folder."""
    return f"{picture.split}/{picture.name}"


def write(dataset: Dataset, folder: Path, problems: Problems) -> None:
    """Write a JSON file beside each image, without the image's content.

    A segmentation whose extent is not the box is left out, and the box kept.
    """
    for picture in inside(dataset.pictures, problems):
        shapes = []
        for number, item in enumerate(picture.objects, 1):
            made = _shapes(item, number, picture)
            if item.segmentation is not None and made[0]["shape_type"] == "rectangle":
                problems.note(
                    "segmentations whose extent isn't the box: only the box is kept", picture.name
                )
            shapes += made
        content: dict[str, Any] = {
            "version": VERSION,
            "flags": {},
            "shapes": shapes,
            "imagePath": Path(picture.name).name,
            "imageData": None,
            "imageHeight": picture.height,
            "imageWidth": picture.width,
        }
        text = json.dumps(content, ensure_ascii=False, indent=1, allow_nan=False)
        write_label(folder / f"{stem(place(picture))}.json", text)


def _has_shapes(file: Path) -> bool:
    try:
        return {"shapes", "imagePath"} <= set(top_keys(file))
    except DataError:
        return False


def _image_of(name: str, image_path: Any, by_stem: Mapping[str, str]) -> str:
    """Return the image that a JSON file names, or else the one of its own name."""
    beside = Path(name).parent
    if isinstance(image_path, str) and image_path:
        file = Path(image_path.replace("\\", "/")).name
        named = (beside / file).as_posix()
        if named in by_stem.values():
            return named
    return by_stem.get(stem(name), f"{stem(name)}.jpg")


def _objects(
    shapes: Sequence[Any], name: str, problems: Problems, width: int, height: int
) -> list[Object]:
    groups: dict[Any, list[tuple[Mapping, Part]]] = {}
    for number, shape in enumerate(shapes):
        where = f"{name}: shape {number}"
        try:
            label, part = _part(shape, width, height)
        except DataError as error:
            problems.lose_object(f"shapes {error}", where)
            continue
        group = shape.get("group_id")
        key = (label, group if type(group) in (int, str) else (number,))
        groups.setdefault(key, []).append((shape, part))
    found = []
    for (label, _), members in groups.items():
        box, segmentation = _joined([part for _, part in members], width, height)
        where = f"{name}: {label} {[round(x, 1) for x in box]}"
        if is_degenerate(box, width, height):
            problems.lose_object("shapes without a size in their image", where)
            continue
        flags = _flags(members[0][0].get("flags"), where, problems)
        found.append(
            Object(
                label,
                cut_box(box, width, height, where, problems),
                segmentation,
                flags.get("iscrowd", False),
                {key: int(flags[key]) for key in _FLAGS if key in flags},
            )
        )
    return found


def _flags(value: Any, where: str, problems: Problems) -> dict[str, bool]:
    """Return a shape's flags that are read, which are true or false."""
    found = {}
    for key in ("iscrowd", *_FLAGS) if isinstance(value, dict) else ():
        flag = value.get(key)
        if flag in (0, 1):
            found[key] = bool(flag)
        elif key in value:
            problems.note(f"flags {key} that are neither true nor false: passed over", where)
    return found


def _part(shape: Any, width: int, height: int) -> tuple[str, Part]:
    """Return the label of a shape, its box and segmentation; an error continues "shapes ..."."""
    if not isinstance(shape, dict):
        raise DataError("that hold no keys")
    label = shape.get("label")
    if not isinstance(label, str) or not (label := printable(label)):
        raise DataError("without a label")
    points = _points(shape.get("points"))
    kind = shape.get("shape_type", "polygon")
    if kind == "rectangle":
        if len(points) not in (2, 4):
            raise DataError("of two corners with another number of them")
        return label, (extent([points.ravel().tolist()]), None)
    if kind == "polygon":
        if len(points) < 3:
            raise DataError("called polygons of less than three points")
        polygon = points.ravel().tolist()
        return label, (extent([polygon]), [polygon])
    if kind == "circle":
        return label, _circle(points)
    if kind == "mask":
        return label, _mask(shape.get("mask"), points, width, height)
    raise DataError(f"of the kind {str(kind)[:20]!r}, which has no area")


def _points(value: Any) -> np.ndarray:
    try:
        points = np.array(value)
    except ValueError:  # lists of several lengths
        points = np.empty(0)
    is_pairs = points.dtype.kind in "iuf" and points.ndim == 2 and points.shape[1] == 2
    if not is_pairs or not (abs(points) < 1e5).all():
        raise DataError("whose points aren't pairs of numbers")
    return points.astype(np.float64)


def _circle(points: np.ndarray) -> Part:
    if len(points) != 2:
        raise DataError("called circles without a centre and a point")
    (x, y), radius = points[0].tolist(), math.dist(*points)
    turns = np.arange(CORNERS) * (2 * np.pi / CORNERS)
    polygon = np.stack([x + radius * np.cos(turns), y + radius * np.sin(turns)], 1)
    return (x - radius, y - radius, 2 * radius, 2 * radius), [polygon.ravel().tolist()]


def _mask(content: Any, points: np.ndarray, width: int, height: int) -> Part:
    """Return a mask, a small image whose first pixel lies at the first point."""
    try:
        with Image.open(io.BytesIO(base64.b64decode(content, validate=True))) as image:
            if image.width > width or image.height > height:
                raise DataError("with a mask that is larger than the image")
            pixels = np.asarray(image.convert("L")) != 0
    except DataError:
        raise
    except Exception as error:  # Pillow's decoders raise errors of many kinds
        raise DataError("with a mask that can't be read") from error
    left, top = points.min(0).round().astype(int).tolist()
    whole = np.zeros((height, width), bool)
    if left < 0 or top < 0 or left + pixels.shape[1] > width or top + pixels.shape[0] > height:
        raise DataError("with a mask that leaves the image")
    whole[top : top + pixels.shape[0], left : left + pixels.shape[1]] = pixels
    if not whole.any():
        raise DataError("with a mask without a pixel")
    runs = encode(whole)
    return box_of(runs), runs


def _joined(
    parts: Sequence[Part], width: int, height: int
) -> tuple[Box, list[list[float]] | dict[str, Any] | None]:
    """Return one object of several shapes; a box among them leaves it without a segmentation."""
    if len(parts) == 1:
        return parts[0]
    corners = np.array([(x, y, x + w, y + h) for (x, y, w, h), _ in parts])
    left, top = corners[:, :2].min(0).tolist()
    right, bottom = corners[:, 2:].max(0).tolist()
    box = left, top, right - left, bottom - top
    segmentations = [segmentation for _, segmentation in parts]
    if any(segmentation is None for segmentation in segmentations):
        return box, None
    polygons = [one for one in segmentations if isinstance(one, list)]
    if len(polygons) == len(segmentations):
        return box, [polygon for one in polygons for polygon in one]
    bitmaps = [to_bitmap(parse(one, height, width), height, width) for one in segmentations]
    return box, encode(np.any(bitmaps, 0))


def _shapes(item: Object, number: int, picture: Picture) -> list[dict[str, Any]]:
    flags = {key: bool(value) for key, value in item.flags.items() if key in _FLAGS}
    if item.crowd:
        flags["iscrowd"] = True
    common = {"label": item.category, "group_id": None, "description": "", "flags": flags}
    polygons = polygons_of_box(item, picture)
    if polygons:
        group = number if len(polygons) > 1 else None
        return [
            common | {
                "group_id": group,
                "shape_type": "polygon",
                "points": np.reshape(polygon, (-1, 2)).tolist(),
                "mask": None,
            }
            for polygon in polygons
        ]  # fmt: skip
    x, y, w, h = item.box
    if isinstance(item.segmentation, dict) and not differ(box_of(item.segmentation), item.box):
        return [common | _mask_shape(item.segmentation, picture)]
    corners = [[x, y], [x + w, y + h]]
    return [common | {"shape_type": "rectangle", "points": corners, "mask": None}]


def _mask_shape(runs: Mapping[str, Any], picture: Picture) -> dict[str, Any]:
    bitmap = coco_mask.decode(parse(runs, picture.height, picture.width))
    left, top, width, height = map(int, box_of(runs))
    stream = io.BytesIO()
    Image.fromarray(bitmap[top : top + height, left : left + width]).save(stream, "PNG")
    return {
        "shape_type": "mask",
        # First and last pixel, as LabelMe has it for masks.
        "points": [[left, top], [left + width - 1, top + height - 1]],
        "mask": base64.b64encode(stream.getvalue()).decode(),
    }
