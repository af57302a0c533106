"""A folder of one mask image per object.

Two layouts are read, at the top or in a folder a split:

- ``NAME/images/*.png`` and ``NAME/masks/*.png``, as in the Data Science Bowl of 2018;
- ``images/NAME.jpg`` and ``masks/NAME/*.png``.

A folder in a folder of masks is a class: ``masks/nucleus/1.png``. Masks that lie in none are of
the class "object", or of the one class that is asked for. The pixels of an object are those above
half of the mask's largest value, which leaves soft edges half in. A map that numbers the objects
of an image is another form, and refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from ...errors import DataError
from ..images import open_image, upright
from .dataset import IMAGES, Listed, Listing, Object, Options, files_below, in_split, stem, walk
from .problems import Problems, printable
from .runs import box_of, encode

LAYOUT = "NAME/images/ and NAME/masks/, or images/ and masks/NAME/, an image an object"
_MASKS, _PICTURES = "masks", "images"
PLAIN = "object"
DARK = 128  # no mask of eight bits is darker where its object is, but for one of zeros and ones


def recognises(folder: Path) -> bool:
    """Tell whether there is a folder masks beside a folder images."""
    return any((folder / base / _MASKS).is_dir() for base in _bases(folder))


def find(folder: Path, options: Options, problems: Problems) -> Listing:
    """List the images that have a folder of masks, which may be empty."""
    plain = options.classes[0] if options.classes and len(options.classes) == 1 else PLAIN
    pictures = []
    for base in _bases(folder):
        root, masks = folder / base / _PICTURES, folder / base / _MASKS
        names = files_below(root, IMAGES)
        apart = any((masks / stem(name)).is_dir() for name in names)
        for name in names:
            own = masks / stem(name) if apart else masks
            if not own.is_dir():
                problems.lose_image("images without a folder of masks", root / name)
            elif not apart and len(names) > 1:
                problems.lose_image("images that share one folder of masks", root / name)
            else:
                split, _ = in_split((base / name).as_posix())
                objects = partial(_objects, own, plain, problems)
                pictures.append(Listed(root / name, name, split, objects))
    return Listing(pictures)


def _bases(folder: Path) -> Iterator[Path]:
    """Yield the folders, relative, that have a folder of images."""
    for here, folders, _ in walk(folder):
        if _PICTURES in folders:
            yield here
        folders[:] = [name for name in folders if name not in (_MASKS, _PICTURES)]


def _objects(folder: Path, plain: str, problems: Problems, width: int, height: int) -> list[Object]:
    found = []
    for name in files_below(folder, IMAGES):
        inner = Path(name).parent.as_posix()
        try:
            bitmap = _bitmap(folder / name, width, height)
        except DataError as error:
            problems.lose_object("masks that can't be used", f"{folder / name}: {error}")
            continue
        runs = encode(bitmap)
        found.append(Object(plain if inner == "." else printable(inner), box_of(runs), runs))
    return found


def _bitmap(path: Path, width: int, height: int) -> np.ndarray:
    """Return the pixels of an object, bool (H, W)."""
    with open_image(path) as image:
        turned = upright(image)
        if turned.size != (width, height):
            raise DataError(f"it has {turned.size} pixels, the image {(width, height)}")
        # Of a palette the numbers, of which 0 is nothing, as of all other kinds of one channel.
        one_channel = turned.mode in ("1", "L", "P", "I", "F") or turned.mode.startswith("I;")
        values = np.asarray(turned if one_channel else turned.convert("L"))
    _expect_one_object(values)
    bitmap = values > values.max() / 2
    if not bitmap.any():
        raise DataError("it has no pixel of an object")
    return bitmap


def _expect_one_object(values: np.ndarray) -> None:
    """Refuse a map that numbers objects. Masks with soft edges go up to white.

    Raises:
        DataError: it is one.
    """
    if values.dtype.kind not in "iu" or (largest := values.max()) in (1, 255, 65535):
        return
    if values.dtype == np.uint8 and largest >= DARK:
        return
    numbers = np.unique(values[values > 0])
    if len(numbers) > 1:
        first = ", ".join(map(str, numbers[:3])) + (", ..." if len(numbers) > 3 else "")
        raise DataError(
            f"it numbers objects ({first}), and one mask image an object is read: give each of "
            "them a file"
        )
