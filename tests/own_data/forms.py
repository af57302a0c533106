"""One small dataset in every form: six images of two classes, one of them without an object.

Written without the code under test.
"""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from tests.data.formats.support import (
    SIZE,
    shape,
    voc_object,
    write_image,
    write_labelme,
    write_text,
    write_xml,
)

CLASSES = ("cat", "dog")
# Of each image: class, and the box's edges x1, y1, x2, y2 in pixels.
OBJECTS = [
    [("cat", (4, 6, 24, 30)), ("dog", (30, 10, 50, 40))],
    [("dog", (10, 10, 40, 40))],
    [],
    [("cat", (0, 0, 20, 20)), ("cat", (20, 20, 40, 44))],
    [("dog", (5, 5, 60, 45))],
    [("cat", (8, 4, 28, 24)), ("dog", (32, 16, 56, 40))],
]
SPLITS = ["train"] * 4 + ["val"] * 2


def names() -> list[tuple[str, str, list]]:
    """Split, name and objects of each image."""
    return [
        (split, f"a{i}", found)
        for i, (split, found) in enumerate(zip(SPLITS, OBJECTS, strict=True))
    ]


def voc(folder: Path) -> None:
    for i, (_, name, found) in enumerate(names()):
        write_image(folder / "JPEGImages" / f"{name}.jpg", i)
        # The devkit's numbers: first and last pixel, from 1.
        objects = "".join(voc_object(c, (x1 + 1, y1 + 1, x2, y2)) for c, (x1, y1, x2, y2) in found)
        write_xml(folder / "Annotations" / f"{name}.xml", objects, filename=f"{name}.jpg")
    for split in ("train", "val"):
        listed = "".join(f"{name}\n" for own, name, _ in names() if own == split)
        write_text(folder / "ImageSets" / "Main" / f"{split}.txt", listed)


def yolo(folder: Path) -> None:
    w, h = SIZE
    for i, (split, name, found) in enumerate(names()):
        write_image(folder / "images" / split / f"{name}.png", i)
        lines = [
            f"{CLASSES.index(c)} {(x1 + x2) / 2 / w} {(y1 + y2) / 2 / h} {(x2 - x1) / w} "
            f"{(y2 - y1) / h}\n"
            for c, (x1, y1, x2, y2) in found
        ]
        write_text(folder / "labels" / split / f"{name}.txt", "".join(lines))
    write_text(folder / "data.yaml", "train: images/train\nval: images/val\nnames: [cat, dog]\n")


def labelme(folder: Path) -> None:
    for i, (split, name, found) in enumerate(names()):
        write_image(folder / split / f"{name}.png", i)
        shapes = [shape(c, "rectangle", [[x1, y1], [x2, y2]]) for c, (x1, y1, x2, y2) in found]
        write_labelme(folder / split / f"{name}.json", shapes, f"{name}.png")


def coco(folder: Path, masks: bool = False, ids: tuple[int, int] = (7, 90)) -> None:
    for split in ("train", "val"):
        own = [(i, name, found) for i, (s, name, found) in enumerate(names()) if s == split]
        annotations = []
        for i, name, found in own:
            write_image(folder / split / f"{name}.png", i)
            for c, (x1, y1, x2, y2) in found:
                entry = {
                    "id": len(annotations) + 1, "image_id": i + 1, "iscrowd": 0,
                    "category_id": ids[CLASSES.index(c)],
                    "bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1),
                }  # fmt: skip
                if masks:
                    entry["segmentation"] = [[x1, y1, x2, y1, x2, y2, x1, y2]]
                annotations.append(entry)
        content = {
            "images": [
                {"id": i + 1, "file_name": f"{name}.png", "width": SIZE[0], "height": SIZE[1]}
                for i, name, _ in own
            ],
            "annotations": annotations,
            "categories": [{"id": n, "name": c} for n, c in zip(ids, CLASSES, strict=True)],
        }
        write_text(folder / "annotations" / f"{split}.json", json.dumps(content))


def masks(folder: Path) -> None:
    for i, (_, name, found) in enumerate(names()):
        write_image(folder / name / "images" / f"{name}.png", i)
        for number, (_, (x1, y1, x2, y2)) in enumerate(found):
            pixels = np.zeros((SIZE[1], SIZE[0]), np.uint8)
            pixels[y1:y2, x1:x2] = 255
            path = folder / name / "masks" / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)


WRITERS = {"voc": voc, "yolo": yolo, "labelme": labelme, "coco": coco, "masks": masks}
