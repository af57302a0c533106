"""Small COCO-format datasets to load, and to break."""

import itertools
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ms_detr.data import coco_dataset

_numbers = itertools.count()


class Folder:
    """A COCO-format folder with two images and three annotations, under a name of its own."""

    def __init__(self, root: Path):
        self.name = f"folder_{next(_numbers)}"  # the catalogs of Detectron2 are global
        self.images = root / "images"
        self.json = root / "annotations.json"
        self.images.mkdir()
        rng = np.random.default_rng(0)
        for file in ("a.png", "b.png"):
            pixels = rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(self.images / file)
        self.content = {
            "images": [
                {"id": 7, "file_name": "b.png", "height": 20, "width": 30},
                {"id": 3, "file_name": "a.png", "height": 20, "width": 30},
            ],
            "annotations": [
                {"id": 1, "image_id": 7, "category_id": 90, "bbox": [1, 2, 10, 5], "iscrowd": 0},
                {"id": 2, "image_id": 7, "category_id": 4, "bbox": [5, 6, 7, 8], "iscrowd": 1},
                {"id": 5, "image_id": 3, "category_id": 17, "bbox": [25.5, 10, 9, 9.5]},
            ],
            "categories": [
                {"id": 90, "name": "zebra"},
                {"id": 4, "name": "ant"},
                {"id": 17, "name": "cat"},
            ],
        }

    def write(self) -> None:
        self.json.write_text(json.dumps(self.content))

    def load(self, **options: bool) -> list[dict]:
        self.write()
        return coco_dataset(self.name, self.images, self.json, **options)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


@pytest.fixture
def load_demo(demo_dataset: Path) -> Callable[..., list[dict]]:
    """Load a split of the session's demo dataset."""

    def load(split: str, masks: bool = False) -> list[dict]:
        return coco_dataset(
            f"tests_demo_{split}",
            demo_dataset / split,
            demo_dataset / "annotations" / f"{split}.json",
            masks,
        )

    return load
