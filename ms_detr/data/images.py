"""Image files: opened safely, turned upright, and the same for training, prediction and pictures.

A camera that was held sideways stores its picture sideways and a tag that says so. Every viewer
turns the picture by the tag, and so does everything here: the size of an image is that of the
upright one, and boxes are in its pixels.
"""

from __future__ import annotations

import os
import stat
import struct
import threading
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from hashlib import blake2b
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from ..errors import DataError, MissingFileError

IMAGE_FORMATS = ("RGB", "BGR", "L")
MAX_PIXELS = 178_956_970  # of an image file: Pillow's limit
LARGE = 1 << 24  # pixels; of larger images threads decode one at a time
STRIP = 1 << 22  # pixels that are converted at a time

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = (5, 6, 7, 8)
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_TAGS = {b"eXIf", b"iTXt", b"tEXt", b"zTXt"}
_KINDS_OF_FILE = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}


class ImageError(DataError):
    """An image file that can't be used."""


@dataclass(frozen=True)
class Header:
    """What a file says of its image.

    Attributes:
        width, height: in pixels, as stored.
        orientation: EXIF's, 1 to 8; 1 is upright.
        mode: Pillow's, such as "RGB".
    """

    width: int
    height: int
    orientation: int
    mode: str

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the upright image."""
        if self.orientation in _SIDEWAYS:
            return self.height, self.width
        return self.width, self.height

    def is_stored(self, width: float, height: float) -> bool:
        """Tell whether this is the size as stored, and not that of the upright image."""
        return (width, height) == (self.width, self.height) != self.size

    def problem(self, width: float | None = None, height: float | None = None) -> str | None:
        """Say why the image can't be used, or doesn't fit the size in an annotation file."""
        if self.mode.startswith(("I", "F")):
            return (
                f"has more than 8 bits per channel (mode {self.mode}), which reading would cut to "
                "white: convert it to 8 bits."
            )
        upright_width, upright_height = self.size
        width = upright_width if width is None else width
        height = upright_height if height is None else height
        if (width, height) == self.size:
            return None
        found = f"is {upright_width} x {upright_height} pixels"
        told = f"the annotation file says {width} x {height}"
        if self.is_stored(width, height):
            return (
                f"{found} once it is turned upright by its orientation tag, {self.orientation}; "
                f"{told}, the size as stored. So that file ignores the tag, which is applied here: "
                "if its boxes fit the stored pixels, remove the tag from the image file; if they "
                "fit the upright image, swap width and height there."
            )
        if (height, width) == self.size:
            return f"{found}, {told}: width and height are swapped there."
        return f"{found}, {told}: correct width and height there."


def expect_file(path: str | os.PathLike[str], what: str) -> None:
    """Make sure that a path is a regular file's: opening a pipe would wait for ever.

    Args:
        what: it should be, such as "an image".

    Raises:
        MissingFileError: there is no such file.
        ImageError: it is a folder, a pipe or a device.
    """
    try:
        kind = stat.S_IFMT(os.stat(path).st_mode)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise MissingFileError(f"there is no {what.partition(' ')[2]} file {path}") from error
    if kind != stat.S_IFREG:
        raise ImageError(f"{path} is {_KINDS_OF_FILE.get(kind, 'no file')}, not {what} file")


class OneAtATime:
    """Lets threads have one large image in memory at a time, and any number of others."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def __call__(self, width: int, height: int) -> AbstractContextManager:
        """Return the context in which an image of so many pixels is decoded."""
        return self._lock if width * height > LARGE else nullcontext()


@contextmanager
def at_most(pixels: int) -> Iterator[None]:
    """In the block image files of more pixels can't be opened, and others without a warning."""
    before = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = (pixels + 1) // 2  # Pillow warns of more, and refuses twice as many
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            yield
    finally:
        Image.MAX_IMAGE_PIXELS = before


@contextmanager
def open_image(path: str | os.PathLike[str]) -> Iterator[Image.Image]:
    """Open an image file with Pillow; its pixels are not decoded yet.

    Raises:
        MissingFileError: there is no such file.
        ImageError: it is a folder, a pipe or a device; or no image; or, out of the block, one
            that can't be decoded.
    """
    expect_file(path, "an image")
    try:
        with Image.open(path) as image:
            yield image
    except DataError:  # of who looks at it
        raise
    except Exception as error:  # Pillow's decoders raise errors of many kinds
        raise ImageError(unreadable(path, error)) from error


def unreadable(name: str | os.PathLike[str], error: Exception) -> str:
    """Say why Pillow could not read an image, and name it once."""
    problem = f"{name} can't be read as an image"
    if isinstance(error, UnidentifiedImageError):  # which names the file, or an object of Python's
        return f"{problem}: it is of no kind that is known"
    return f"{problem}: {type(error).__name__}: {error}"


def read_header(image: Image.Image) -> Header:
    """Return the header of an image that was opened from a file and not decoded yet."""
    width, height = image.size
    if image.format == "TIFF":  # some versions of Pillow give the upright image's size
        tags = image.tag_v2  # type: ignore[attr-defined]
        width, height = tags[ExifTags.Base.ImageWidth], tags[ExifTags.Base.ImageLength]
    return Header(width, height, _orientation(image), image.mode)


def load_image(
    path: str | os.PathLike[str], image_format: str = "RGB"
) -> tuple[np.ndarray, Header]:
    """Return the upright image of a file, (H, W, C) uint8, and its header.

    Args:
        image_format: "RGB", "BGR" or "L" (grey). Files of any mode are converted; an alpha channel
            is dropped.

    Raises:
        MissingFileError, ImageError: see `open_image`; or more than 8 bits per channel.
    """
    with open_image(path) as image:
        header = read_header(image)
        if problem := header.problem():
            raise ImageError(f"{path} {problem}")
        pixels = to_array(image, image_format)
    if pixels.shape[1::-1] != header.size:
        raise ImageError(f"{path} is {header.size} by its header and {pixels.shape[1::-1]} in fact")
    return pixels, header


def to_array(image: Image.Image, image_format: str = "RGB") -> np.ndarray:
    """Return an image of Pillow as (H, W, C) uint8, upright and converted as by `load_image`."""
    turned = upright(image)
    mode = "L" if image_format == "L" else "RGB"
    step = -1 if image_format == "BGR" else 1
    turned.load()
    width, height = turned.size
    pixels = np.empty((height, width, len(mode)), np.uint8)
    # Strip by strip: converting makes a copy, and so does Pillow when it gives its pixels away.
    rows = max(STRIP // max(width, 1), 1)
    for top in range(0, height, rows):
        strip = turned
        if rows < height:
            strip = turned.crop((0, top, width, min(top + rows, height)))
        strip = strip if strip.mode == mode else strip.convert(mode)
        part = np.asarray(strip).reshape(-1, width, len(mode))
        pixels[top : top + rows] = part[:, :, ::step]
    return pixels


def upright(image: Image.Image) -> Image.Image:
    """Return an image of Pillow turned as its orientation tag says; without one, the same."""
    # Pillow turns a TIFF while decoding, whatever its tags tell.
    turn = None if image.format == "TIFF" else _TURNS.get(_orientation(image))
    # Pillow's exif_transpose rewrites all tags, and fails if one of them is damaged.
    return image if turn is None else image.transpose(turn)


def pixel_digest(pixels: np.ndarray) -> bytes:
    """Return what tells images (H, W, C) of the same pixels, whatever their files are."""
    digest = blake2b(repr(pixels.shape).encode(), digest_size=16)
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.digest()


def _orientation(image: Image.Image) -> int:
    try:
        value = _tags(image).get(ExifTags.Base.Orientation, 1)
    except Exception:  # the tags are damaged; the pixels may be fine
        return 1
    return value if value in _TURNS else 1


def _tags(image: Image.Image) -> Image.Exif:
    file = getattr(image, "fp", None)
    if image.format == "PNG" and file is not None and not _PNG_TAGS & set(chunks_to_end(file)):
        return Image.Image.getexif(image)  # PNG's own would decode the pixels in search of tags
    return image.getexif()


def chunks_to_end(file: BinaryIO) -> list[bytes]:
    """Return the names of a PNG's chunks from its pixels on; the file's position is kept."""
    position = file.tell()
    file.seek(len(PNG_SIGNATURE))
    names: list[bytes] = []
    while len(head := file.read(8)) == 8 and b"IEND" not in names:
        length, name = struct.unpack(">I4s", head)
        if names or name == b"IDAT":
            names.append(name)
        file.seek(length + 4, os.SEEK_CUR)
    file.seek(position)
    return names
