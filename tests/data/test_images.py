"""Image files of every format that carries an orientation, and files that are no images."""

import os
import signal
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import Metadata
from PIL import Image, features

from ms_detr.data import DetrMapper, ImageError, load_image
from ms_detr.data.images import Header, open_image, read_header, to_array
from ms_detr.visualization.scene import canvas

ORIENTATION = 0x0112
HEIGHT, WIDTH = 32, 48  # whole blocks of JPEG's

# EXIF's definition: which side of the picture the first row and the first column of the file are.
STORED = {
    1: lambda upright: upright,
    2: lambda upright: upright[:, ::-1],  # top, right
    3: lambda upright: upright[::-1, ::-1],  # bottom, right
    4: lambda upright: upright[::-1],  # bottom, left
    5: lambda upright: upright.swapaxes(0, 1),  # left, top
    6: lambda upright: upright[:, ::-1].swapaxes(0, 1),  # right, top
    7: lambda upright: upright[::-1, ::-1].swapaxes(0, 1),  # right, bottom
    8: lambda upright: upright[::-1].swapaxes(0, 1),  # left, bottom
}
LOSSLESS = {
    "png": ("png", {}),
    "tiff": ("tiff", {}),
    "tiff, compressed": ("tiff", {"compression": "tiff_lzw"}),
    "webp, lossless": ("webp", {"lossless": True}),
}
LOSSY = {"jpeg": ("jpg", {"quality": 95}), "webp": ("webp", {"quality": 95})}
if features.check("avif"):
    LOSSY["avif"] = ("avif", {"quality": 95})
if ".heic" in Image.registered_extensions():  # by a plugin
    LOSSY["heif"] = ("heic", {"quality": 95})


def picture() -> np.ndarray:
    """Smooth, and like none of its turned copies."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    red, green, blue = 5 * x, 7 * y, 60 + 2 * x + 3 * y
    return np.stack((red, green, blue), -1).astype(np.uint8)


def write(folder: Path, kind: str, orientation: int, image: np.ndarray) -> dict:
    """A record of a file that shows the image when it is turned as its tag says."""
    suffix, options = (LOSSLESS | LOSSY)[kind]
    path = folder / f"{orientation}.{suffix}"
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    stored = np.ascontiguousarray(STORED[orientation](image))
    Image.fromarray(stored).save(path, exif=exif, **options)
    return {"file_name": str(path), "image_id": 1, "height": HEIGHT, "width": WIDTH}


def ways_to_read(record: dict) -> dict[str, np.ndarray]:
    """The image as each part of the package sees it."""
    mapped = DetrMapper([], is_train=False)(record)
    assert (mapped["height"], mapped["width"]) == (HEIGHT, WIDTH)
    return {
        "file": load_image(record["file_name"])[0],
        "mapper": mapped["image"].numpy().transpose(1, 2, 0),
        "drawing": canvas(record, Metadata()).img,
    }


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("kind", LOSSLESS)
def test_every_orientation_shows_the_same_pixels(tmp_path, kind: str, orientation: int):
    record = write(tmp_path, kind, orientation, picture())
    for way, pixels in ways_to_read(record).items():
        np.testing.assert_array_equal(pixels, picture(), err_msg=way)


def distance(one: np.ndarray, other: np.ndarray) -> float:
    if one.shape != other.shape:
        return np.inf
    return float(abs(one.astype(float) - other).mean())


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("kind", LOSSY)
def test_every_orientation_of_lossy_formats(tmp_path, kind: str, orientation: int):
    """As near as the file of the format that isn't turned; any other turn is far off."""
    expected = picture()
    straight = load_image(write(tmp_path, kind, 1, expected)["file_name"])[0]
    bound = 2 * distance(straight, expected)
    record = write(tmp_path, kind, orientation, expected)
    for way, pixels in ways_to_read(record).items():
        assert distance(pixels, expected) <= bound, way
        wrong = [distance(pixels, turn(expected)) for key, turn in STORED.items() if key != 1]
        assert min(wrong) > 10 * bound


@pytest.mark.parametrize("kind", LOSSLESS | LOSSY)
@pytest.mark.parametrize("orientation", [1, 3, 6, 7])
def test_headers(tmp_path, kind: str, orientation: int):
    record = write(tmp_path, kind, orientation, picture())
    with open_image(record["file_name"]) as image:
        header = read_header(image)
    height, width = STORED[orientation](picture()).shape[:2]
    assert header == Header(width, height, orientation, "RGB")
    assert header.size == (WIDTH, HEIGHT)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1", "CMYK", "YCbCr"])
@pytest.mark.parametrize("image_format", ["RGB", "BGR", "L"])
def test_strips_are_as_the_whole(monkeypatch, mode: str, image_format: str):
    image = Image.fromarray(picture()).convert(mode)
    expected = np.asarray(image.convert("L" if image_format == "L" else "RGB"))
    expected = expected.reshape(HEIGHT, WIDTH, -1)
    for strip in (1, 5 * WIDTH + 3, HEIGHT * WIDTH):
        monkeypatch.setattr("ms_detr.data.images.STRIP", strip)
        found = to_array(image, image_format)
        np.testing.assert_array_equal(
            found[:, :, ::-1] if image_format == "BGR" else found, expected
        )


def test_orientation_in_xmp(tmp_path):
    xmp = b'<rdf:Description tiff:Orientation="6"/>'
    Image.fromarray(np.ascontiguousarray(STORED[6](picture()))).save(tmp_path / "a.png")
    image = Image.open(tmp_path / "a.png")
    image.save(tmp_path / "a.webp", lossless=True, xmp=xmp)
    np.testing.assert_array_equal(load_image(tmp_path / "a.webp")[0], picture())


def test_tags_of_a_png_behind_its_pixels(tmp_path):
    """Where some tools put them."""
    path = Path(write(tmp_path, "png", 6, picture())["file_name"])
    content = path.read_bytes()
    start = content.index(b"eXIf") - 4
    end = start + 12 + struct.unpack(">I", content[start : start + 4])[0]
    tags, rest = content[start:end], content[:start] + content[end:]
    place = rest.index(b"IEND") - 4
    path.write_bytes(rest[:place] + tags + rest[place:])
    np.testing.assert_array_equal(load_image(path)[0], picture())
    with open_image(path) as image:
        assert read_header(image).size == (WIDTH, HEIGHT)


def entry(tag: int, kind: int, count: int, value: bytes) -> bytes:
    return struct.pack("<HHI4s", tag, kind, count, value)


def test_damaged_tags(tmp_path):
    """The resolution as text, on which Pillow's own function for turning fails."""
    turned = entry(ORIENTATION, 3, 1, b"\x06\0\0\0")
    entries = [entry(0x011A, 2, 4, b"AAAA"), turned]
    exif = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", 2) + b"".join(entries) + bytes(4)
    stored = Image.fromarray(np.ascontiguousarray(STORED[6](picture())))
    stored.save(tmp_path / "a.webp", lossless=True, exif=exif)
    np.testing.assert_array_equal(load_image(tmp_path / "a.webp")[0], picture())
    Image.fromarray(picture()).save(tmp_path / "b.webp", lossless=True, exif=b"Exif\0\0rubbish")
    np.testing.assert_array_equal(load_image(tmp_path / "b.webp")[0], picture())


@pytest.mark.parametrize("kind", ["jpeg", "tiff"])
def test_which_convention_an_annotation_file_follows(tmp_path, kind: str):
    record = write(tmp_path, kind, 6, picture()) | {"height": WIDTH, "width": HEIGHT}
    with pytest.raises(ImageError) as error:
        DetrMapper([])(record)
    message = str(error.value)
    assert "is 48 x 32 pixels once it is turned upright by its orientation tag, 6;" in message
    assert "says 32 x 48, the size as stored. So that file ignores the tag" in message
    straight = write(tmp_path, kind, 1, picture()) | {"height": WIDTH, "width": HEIGHT}
    with pytest.raises(ImageError, match="says 32 x 48: width and height are swapped there") as e:
        DetrMapper([])(straight)
    assert "orientation" not in str(e.value)


# ------------------------------------------------------------------------- what is no image


@contextmanager
def at_most(seconds: int) -> Iterator[None]:
    def give_up(*_: object) -> None:
        raise AssertionError("it hangs")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


NO_FILES = {
    "named pipe": lambda path: os.mkfifo(path),
    "device": lambda path: path.symlink_to("/dev/zero"),
    "folder": lambda path: path.mkdir(),
}


@pytest.mark.parametrize("kind", NO_FILES)
def test_only_regular_files_are_opened(tmp_path, kind: str):
    path = tmp_path / "image.png"
    NO_FILES[kind](path)
    record = {"file_name": str(path), "image_id": 4, "height": 2, "width": 2}
    for read in (lambda: load_image(path), lambda: DetrMapper([])(record)):
        with at_most(5), pytest.raises(ImageError, match=rf"{path} is a {kind}, not an image file"):
            read()


def test_links_to_files_are_files(tmp_path):
    path = Path(write(tmp_path, "png", 1, picture())["file_name"])
    (tmp_path / "link.png").symlink_to(path)
    np.testing.assert_array_equal(load_image(tmp_path / "link.png")[0], picture())
    (tmp_path / "nowhere.png").symlink_to(tmp_path / "gone.png")
    for missing in (tmp_path / "nowhere.png", path / "below_a_file.png"):
        with pytest.raises(FileNotFoundError, match=f"there is no image file {missing}"):
            load_image(missing)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data:UserWarning")  # Pillow's
def test_pixels_cut_short(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    for kind in LOSSLESS | LOSSY:
        path = Path(write(tmp_path, kind, 1, noise)["file_name"])
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        with pytest.raises(ImageError, match=f"{path} can't be read as an image"):
            load_image(path)
