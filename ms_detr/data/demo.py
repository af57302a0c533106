"""The demo dataset: small synthetic images in COCO format, made in seconds.

Textured shapes of six classes on clutter, hard enough that minutes of training don't solve it.
What the images look like is in :mod:`ms_detr.data.demo_scene`; here they are written.

Annotations are *amodal within the image*: polygon, area and box describe the whole shape as far
as it lies in the image, also where a later object covers it. Half or more of every object can be
seen, the outlines are simple, and so the target is well defined; and box, polygon and area always
describe one and the same set of pixels. Regions of clutter are crowds (iscrowd=1, RLE).
"""

import json
import logging
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from PIL import Image
from tqdm import tqdm

from ..errors import DataError
from ..files import explained, write_text
from .demo_scene import SPLITS, DemoObject, DemoSpec, draw_image
from .demo_shapes import extent, run_lengths

logger = logging.getLogger(__name__)

# Its folder in DETECTRON2_DATASETS; its splits are NAME_train and NAME_val.
NAME = "ms_detr_demo"
FORMAT_VERSION = 1
DESCRIPTION = "ms_detr demo dataset"


def generate_demo(
    root: str | os.PathLike,
    train_images: int = 6000,
    val_images: int = 400,
    seed: int = 0,
    spec: DemoSpec | None = None,
    progress: bool = True,
) -> Path:
    """Write the demo dataset, unless it is there already.

    The folder gets ``train/*.png``, ``val/*.png`` and ``annotations/{train,val}.json``. An
    annotation file is written last and in one move, and tells how its split was made: a finished
    split of the same definition is kept, anything else is made anew.

    Args:
        root: folder, made if missing.
        train_images, val_images: number of images per split.
        seed: another seed gives other images.
        spec: what the images look like; the default is the demo's frozen definition.
        progress: show a progress bar.

    Returns:
        ``root`` as a path.

    Raises:
        DataError: an annotation file in ``root`` is not one of a demo dataset.
    """
    root, spec = Path(root), spec or DemoSpec()
    for split, count in zip(SPLITS, (train_images, val_images), strict=True):
        _generate_split(root, split, count, seed, spec, progress)
    return root


def _generate_split(
    root: Path, split: str, count: int, seed: int, spec: DemoSpec, progress: bool
) -> None:
    folder, target = root / split, root / "annotations" / f"{split}.json"
    info = {
        "description": DESCRIPTION,
        "version": FORMAT_VERSION,
        "split": split,
        "seed": seed,
        "num_images": count,
        # Through JSON, so that it equals what is read back (tuples become lists).
        "spec": json.loads(json.dumps(asdict(spec))),
    }
    if _is_finished(target, folder, info):
        logger.info("Demo dataset: keeping the %d %s images in %s", count, split, root)
        return
    target.unlink(missing_ok=True)  # from here on the split is unfinished, and says so
    target.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    data: dict[str, Any] = {
        "info": info,
        "images": [],
        "annotations": [],
        "categories": [{"id": i + 1, "name": name} for i, name in enumerate(spec.classes)],
    }
    for index in tqdm(range(count), f"demo dataset, {split}", disable=not progress, unit="img"):
        image, objects = draw_image(spec, seed, split, index)
        path = folder / _file_name(index)
        # Without compression: sensor noise hardly compresses, and reading is three times faster.
        with explained(path):
            Image.fromarray(image).save(path, compress_level=0)
        data["images"].append(
            {
                "id": index + 1,
                "file_name": path.name,
                "width": spec.image_size,
                "height": spec.image_size,
            }
        )
        for item in objects:
            annotation_id = len(data["annotations"]) + 1
            data["annotations"].append(_annotation(item, annotation_id, image_id=index + 1))
    write_text(target, json.dumps(data, separators=(",", ":")))


def _file_name(index: int) -> str:
    return f"{index + 1:06d}.png"


def _is_finished(target: Path, folder: Path, info: dict) -> bool:
    if not target.exists():
        return False
    try:
        found = json.loads(target.read_text()).get("info", {})
    except (ValueError, AttributeError):
        found = {}
    if found.get("description") != DESCRIPTION:
        raise DataError(
            f"{target} is not the annotation file of a demo dataset and is left alone: "
            "choose another folder for the demo dataset."
        )
    present = {entry.name for entry in os.scandir(folder)} if folder.is_dir() else set()
    expected = {_file_name(index) for index in range(info["num_images"])}
    return found == info and expected <= present


def _annotation(item: DemoObject, annotation_id: int, image_id: int) -> dict:
    """The COCO annotation of one object."""
    segmentation: dict | list
    if item.crowd:
        segmentation = {"size": list(item.mask.shape), "counts": run_lengths(item.mask)}
    else:
        segmentation = [polygon.ravel().tolist() for polygon in item.polygons]
    return {
        "id": annotation_id,
        "image_id": image_id,
        "category_id": item.category + 1,
        "bbox": [float(value) for value in extent(item.mask)],
        "area": int(item.mask.sum()),
        "segmentation": segmentation,
        "iscrowd": int(item.crowd),
    }
