"""Small datasets of every form, written without the code under test."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.conftest import ROOT

SIZE = (64, 48)  # width, height
BCCD = ROOT.parent / "shared" / "data" / "bccd"  # of VOC's form; not everywhere


def write_image(path: Path, seed: int = 0, size: tuple[int, int] = SIZE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def write_xml(path: Path, objects: str, size: tuple[Any, Any] = SIZE, filename: str = "") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f"<annotation><filename>{filename}</filename><size><width>{size[0]}</width><height>"
        f"{size[1]}</height><depth>3</depth></size>{objects}</annotation>"
    )


def voc_object(name: str, box: tuple, extra: str = "") -> str:
    sides = zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
    inner = "".join(f"<{side}>{value}</{side}>" for side, value in sides)
    return f"<object><name>{name}</name>{extra}<bndbox>{inner}</bndbox></object>"


def write_text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def write_labelme(path: Path, shapes: list, image: str, size: tuple[int, int] = SIZE) -> None:
    content = {
        "version": "5.4.1", "flags": {}, "shapes": shapes, "imagePath": image, "imageData": None,
        "imageHeight": size[1], "imageWidth": size[0],
    }  # fmt: skip
    write_text(path, json.dumps(content))


def shape(label: str, kind: str, points: list, **more: Any) -> dict:
    return {
        "label": label,
        "shape_type": kind,
        "points": points,
        "group_id": None,
        "flags": {},
    } | more


def read_split(folder: Path, split: str) -> dict[str, list[tuple]]:
    """The objects of a written COCO file by image: class name, bbox, iscrowd."""
    content = json.loads((folder / "annotations" / f"{split}.json").read_text())
    name_of = {entry["id"]: entry["name"] for entry in content["categories"]}
    found: dict[str, list[tuple]] = {entry["file_name"]: [] for entry in content["images"]}
    file_of = {entry["id"]: entry["file_name"] for entry in content["images"]}
    for entry in content["annotations"]:
        found[file_of[entry["image_id"]]].append(
            (name_of[entry["category_id"]], entry["bbox"], entry["iscrowd"])
        )
    return found


def whats(problems: list[dict]) -> dict[str, int]:
    """The kinds of problems of a report, with their counts."""
    return {problem["what"]: problem["count"] for problem in problems}
