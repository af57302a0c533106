"""A dataset with nothing wrong in it, and the faults to plant there, one by one."""

import json
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ms_detr.data.check import Kind, Limits
from ms_detr.data.images import PNG_SIGNATURE
from tests.data.test_image_check import cut_short, turned

WIDTH, HEIGHT = 60, 40
LIMITS = Limits(queries=80)
TRIANGLE = [5, 5, 25, 5, 15, 20]
BOW_TIE = [5, 5, 25, 20, 25, 5, 5, 20]


class Clean:
    """Ten images of train and four of val, two objects each, with polygons; in a folder."""

    def __init__(self, root: Path):
        self.root = root
        self.content = {split: self._split(split, count) for split, count in
                        (("train", 10), ("val", 4))}  # fmt: skip

    def _split(self, split: str, count: int) -> dict[str, list]:
        images = [
            {"id": n, "file_name": f"{n}.png", "width": WIDTH, "height": HEIGHT}
            for n in range(1, count + 1)
        ]
        boxes = [
            (1, [5.0, 5.0, 20.0, 15.0], TRIANGLE),
            (2, [30, 10, 20, 25], [30, 10, 50, 10, 50, 35]),
        ]
        annotations = [
            {"id": 10 * image["id"] + category, "image_id": image["id"], "category_id": category,
             "bbox": [*box], "iscrowd": 0, "segmentation": [[*polygon]]}
            for image in images for category, box, polygon in boxes
        ]  # fmt: skip
        (self.root / split).mkdir(parents=True)
        for image in images:
            self.draw(split, image["file_name"], 100 * (split == "val") + image["id"])
        categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
        return {"images": images, "annotations": annotations, "categories": categories}

    def draw(
        self, split: str, name: str, seed: int, size: tuple[int, int] = (WIDTH, HEIGHT)
    ) -> Path:
        path = self.root / split / name
        pixels = np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
        return path

    def add_image(self, split: str = "train", **entry: Any) -> dict:
        images = self.content[split]["images"]
        number = max(image.get("id", 0) for image in images) + 1
        images.append({"id": number, "file_name": f"{number}.png", "width": WIDTH,
                       "height": HEIGHT} | entry)  # fmt: skip
        return images[-1]

    def add_object(self, split: str = "train", **entry: Any) -> dict:
        annotations = self.content[split]["annotations"]
        number = max(one["id"] for one in annotations if isinstance(one, dict)) + 1
        x = 5 + number % 64 / 4  # no two have one box
        annotations.append({
            "id": number, "image_id": 3, "category_id": 1, "iscrowd": 0, "bbox": [x, 22, 12, 10],
            "segmentation": [[x, 22, x + 12, 22, x + 12, 32]],
        } | entry)  # fmt: skip
        return annotations[-1]

    def image(self, number: int, split: str = "train") -> dict:
        return next(x for x in self.content[split]["images"] if x.get("id") == number)

    def write(self) -> Path:
        (self.root / "annotations").mkdir(exist_ok=True)
        for split, content in self.content.items():
            (self.root / "annotations" / f"{split}.json").write_text(json.dumps(content))
        return self.root


@dataclass(frozen=True)
class Fault:
    """A fault to plant.

    Attributes:
        plant: returns ids of what is to be found: of the image, or of the annotation.
        left: kinds that a mended copy still has; None if it can't be made for nothing is left.
    """

    name: str
    kind: Kind
    plant: Callable[[Clean], dict[str, Any]]
    left: tuple[Kind, ...] = field(default=())


def _image(data: Clean, **entry: Any) -> dict[str, Any]:
    return {"image_id": data.add_image(**entry)["id"]}


def _object(**entry: Any) -> Callable[[Clean], dict[str, Any]]:
    return lambda data: {"annotation_id": data.add_object(**entry)["id"]}


def _file(name: str, make: Callable[[Path], Any], **entry: Any) -> Callable[[Clean], dict]:
    def plant(data: Clean) -> dict[str, Any]:
        make(data.root / "train" / name)
        return _image(data, file_name=name, **entry)

    return plant


def _huge(path: Path) -> None:
    """An image of 400 million pixels, of which there is little more than a header."""
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)),
              (b"IDAT", zlib.compress(b"")), (b"IEND", b"")]  # fmt: skip
    parts = [struct.pack(">I", len(content)) + name + content +
             struct.pack(">I", zlib.crc32(name + content))
             for name, content in chunks]  # fmt: skip
    path.write_bytes(PNG_SIGNATURE + b"".join(parts))


def _sideways(path: Path) -> None:
    turned(path, 6)  # 30 x 20 upright


def _copy(source: str, split: str) -> Callable[[Clean], dict]:
    def plant(data: Clean) -> dict[str, Any]:
        name = f"copy of {source.replace('/', ' ')}"
        with Image.open(data.root / source) as image:
            image.save(data.root / split / name, compress_level=1)  # other bytes, the same pixels
        return _image(data, split=split, file_name=name)

    return plant


def _twice(data: Clean) -> dict[str, Any]:
    data.draw("train", "another.png", 77)
    data.content["train"]["images"].append(data.image(2) | {"file_name": "another.png"})
    return {"image_id": 2}


def _same_annotation(data: Clean) -> dict[str, Any]:
    return {
        "annotation_id": data.add_object(
            id=11, bbox=[4, 21, 12, 10], segmentation=[[4, 21, 16, 21, 16, 31]]
        )["id"]
    }


def _category(**entry: Any) -> Callable[[Clean], dict[str, Any]]:
    def plant(data: Clean) -> dict[str, Any]:
        for content in data.content.values():
            content["categories"].append({"id": 3, "name": "bird"} | entry)
        return {}

    return plant


def _untrained(data: Clean) -> dict[str, Any]:
    _category()(data)
    data.add_object("val", category_id=3)
    return {}


def _nameless(data: Clean) -> dict[str, Any]:
    _category(id=9, name=" ")(data)
    del data.content["val"]["categories"][-1]
    data.add_object(category_id=9)
    return {}


def _similar(data: Clean) -> dict[str, Any]:
    _category(id=4, name="D-og")(data)
    data.add_object(category_id=4)
    return {}


def _entry(kind: str, entry: Any) -> Callable[[Clean], dict[str, Any]]:
    def plant(data: Clean) -> dict[str, Any]:
        data.content["train"][kind].append(entry)
        return {}

    return plant


def _fractions(data: Clean) -> dict[str, Any]:
    return {"annotation_id": data.add_object(bbox=[0.1, 0.2, 0.3, 0.25])["id"]}


def _crowded(data: Clean) -> dict[str, Any]:
    for n in range(100):
        box = [n % 40, n // 40, 5, 6]
        x, y, w, h = box
        data.add_object(image_id=4, bbox=box, segmentation=[[x, y, x + w, y, x + w, y + h]])
    return {"image_id": 4}


def _tiny(data: Clean) -> dict[str, Any]:
    data.draw("train", "wide.png", 5, (600, 400))
    number = data.add_image(file_name="wide.png", width=600, height=400)["id"]
    box = [9, 9, 1.5, 1]  # 3 x 2 pixels in an image of 1200 x 800, of half a cell's 4
    polygon = [[9, 9, 10.5, 9, 10.5, 10, 9, 10]]
    return {"annotation_id": data.add_object(image_id=number, bbox=box, segmentation=polygon)["id"]}


RUNS = {"size": [HEIGHT, WIDTH], "counts": [0, HEIGHT * WIDTH - 5]}
MISSES = (Kind.NO_SEGMENTATION,)  # the box alone is kept
FAULTS = [
    Fault("missing", Kind.MISSING_IMAGE, lambda d: _image(d, file_name="gone.png")),
    Fault("text", Kind.BROKEN_IMAGE, _file("text.jpg", lambda path: path.write_text("hello"))),
    Fault("folder", Kind.BROKEN_IMAGE, _file("folder.jpg", Path.mkdir)),
    Fault("cut", Kind.TRUNCATED_IMAGE, _file("cut.jpg", cut_short, width=30, height=20)),
    Fault("cut png", Kind.TRUNCATED_IMAGE, _file("cut.png", cut_short, width=30, height=20)),
    Fault("huge", Kind.HUGE_IMAGE, _file("huge.png", _huge, width=20_000, height=20_000)),
    Fault("deep", Kind.DEEP_IMAGE, _file("deep.png", lambda path: Image.fromarray(
        np.full((HEIGHT, WIDTH), 9, np.uint16)).save(path))),
    Fault("size", Kind.IMAGE_SIZE, lambda d: d.image(5).update(width=WIDTH + 9) or {"image_id": 5}),
    Fault("size by a pixel", Kind.IMAGE_SIZE,
          lambda d: d.image(5).update(width=WIDTH + 1) or {"image_id": 5}),
    Fault("swapped", Kind.IMAGE_SIZE, _file("tall.png", lambda path: Image.fromarray(
        np.zeros((50, 30, 3), np.uint8)).save(path), width=50, height=30)),
    Fault("sideways", Kind.ORIENTATION, _file("side.jpg", _sideways, width=20, height=30)),
    Fault("copy", Kind.DUPLICATE_IMAGE, _copy("train/7.png", "train")),
    Fault("leak", Kind.LEAKED_IMAGE, _copy("val/2.png", "train")),
    Fault("image id", Kind.DUPLICATE_ID, _twice),
    Fault("annotation id", Kind.DUPLICATE_ID, _same_annotation),
    Fault("category id", Kind.DUPLICATE_ID,
          lambda d: d.content["train"]["categories"].append({"id": 2, "name": "bird"}) or {}),
    Fault("no id", Kind.ENTRY, _entry("images", {"file_name": "x.png", "width": 2, "height": 2})),
    Fault("a number", Kind.ENTRY, _entry("annotations", 7)),
    Fault("no name", Kind.ENTRY, _entry("categories", {"id": 8, "name": None})),
    Fault("empty name", Kind.ENTRY, _nameless),
    Fault("iscrowd", Kind.ENTRY, _object(iscrowd="yes")),
    Fault("orphan", Kind.ORPHAN, _object(image_id=999)),
    Fault("unknown", Kind.UNKNOWN_CLASS, _object(category_id=17)),
    Fault("unused", Kind.UNUSED_CLASS, _category(), (Kind.UNUSED_CLASS,)),
    Fault("untrained", Kind.UNTRAINED_CLASS, _untrained, (Kind.UNTRAINED_CLASS,)),
    Fault("similar", Kind.SIMILAR_CLASSES, _similar, (Kind.SIMILAR_CLASSES,)),
    Fault("nan", Kind.BAD_BOX, _object(bbox=[5, float("nan"), 3, 3])),
    Fault("infinite", Kind.BAD_BOX, _object(bbox=[5, 5, float("inf"), 3])),
    Fault("three numbers", Kind.BAD_BOX, _object(bbox=[5, 5, 3])),
    Fault("words", Kind.BAD_BOX, _object(bbox=["5", "5", "3", "3"])),
    Fault("no width", Kind.EMPTY_BOX, _object(bbox=[5, 5, 0, 9])),
    Fault("below zero", Kind.EMPTY_BOX, _object(bbox=[25, 5, -5, 9])),
    Fault("outside", Kind.OUTSIDE_BOX, _object(bbox=[61, 5, 5, 9])),
    Fault("leaving", Kind.LEAVING_BOX, _object(bbox=[50, 10, 20, 9], segmentation=[
        [50, 10, 60, 10, 60, 19]])),
    Fault("whole", Kind.WHOLE_BOX, _object(bbox=[0, 0, WIDTH, HEIGHT], segmentation=[
        [0, 0, WIDTH, 0, WIDTH, HEIGHT]]), (Kind.WHOLE_BOX,)),
    Fault("fractions", Kind.BOX_CONVENTION, _object(bbox=[0.1, 0.2, 0.3, 0.25], segmentation=[
        [0, 0, 1, 0, 1, 1]]), (Kind.BOX_CONVENTION,)),
    Fault("again", Kind.DUPLICATE_OBJECT, _object(bbox=[5.0, 5.0, 20.0, 15.0], segmentation=[
        TRIANGLE])),
    Fault("odd polygon", Kind.BAD_SEGMENTATION,
          _object(segmentation=[[5, 22, 17, 22, 17]]), MISSES),
    Fault("nan in polygon", Kind.BAD_SEGMENTATION,
          _object(segmentation=[[5, 22, 17, 22, float("nan"), 32]]), MISSES),
    Fault("two points", Kind.BAD_SEGMENTATION, _object(segmentation=[[5, 22, 17, 32]]), MISSES),
    Fault("a remnant", Kind.BAD_SEGMENTATION,
          _object(bbox=[5, 22, 12, 11], segmentation=[[5, 22, 17, 22, 17, 32], [9, 9]])),
    Fault("short runs", Kind.BAD_SEGMENTATION, _object(segmentation=RUNS), MISSES),
    Fault("a word", Kind.BAD_SEGMENTATION, _object(segmentation="polygon"), MISSES),
    Fault("bow tie", Kind.CROSSING_POLYGON,
          _object(bbox=[5, 5, 20, 14.5], segmentation=[BOW_TIE])),
    Fault("elsewhere", Kind.IMPLAUSIBLE_MASK, _object(segmentation=[[40, 2, 55, 2, 55, 9]]),
          (Kind.IMPLAUSIBLE_MASK,)),
    Fault("no mask", Kind.NO_SEGMENTATION, _object(segmentation=[]), MISSES),
    Fault("crowded", Kind.TOO_MANY_OBJECTS, _crowded, (Kind.TOO_MANY_OBJECTS,)),
    Fault("tiny", Kind.SMALL_OBJECT, _tiny, (Kind.SMALL_OBJECT,)),
]  # fmt: skip
