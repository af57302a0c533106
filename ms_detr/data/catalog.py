"""Datasets by their names: where the files lie, and what Detectron2's catalogs say of them."""

import difflib
import os
from collections.abc import Callable, Sequence

from detectron2.data import DatasetCatalog, MetadataCatalog

from ..errors import ConfigError, MissingFileError, shortened
from .demo import NAME as DEMO

_registered: set[str] = set()  # names in Detectron2's catalog that are ours

_BUILTIN_HINT = (
    " Detectron2's datasets lie in the folder that the environment variable DETECTRON2_DATASETS "
    "names ('datasets' if unset; set it before Python starts). COCO belongs there as "
    "coco/train2017/*.jpg, coco/val2017/*.jpg and coco/annotations/instances_{train,val}2017.json."
)
_DEMO_HINT = " It is generated: ms-detr demo --data-only."


def locate(
    name: str, images: str | os.PathLike | None, annotations: str | os.PathLike | None
) -> tuple[str, str]:
    """Return the image folder and the annotation file that `coco_dataset` is to read.

    Raises:
        ConfigError: the name is missing or unknown, or of the files only one is given.
        MissingFileError: there is no such file or folder.
    """
    if not name:
        raise ConfigError(
            f"dataset.name is {name!r}: give one of Detectron2's names, or any name beside the "
            "'images' and 'annotations' of your own data."
        )
    if (images is None) != (annotations is None):
        missing = "images" if images is None else "annotations"
        raise ConfigError(
            f"Dataset '{name}': 'images' and 'annotations' go together, '{missing}' is missing."
        )
    if images is None or annotations is None:
        image_root, json_file = _known_paths(name)
        hint = _BUILTIN_HINT if name.startswith("coco_") else ""
    else:
        image_root, json_file = os.path.expanduser(images), os.path.expanduser(annotations)
        hint = _DEMO_HINT if name.startswith(DEMO) else ""
    for path, kind, is_there in (
        (json_file, "annotation file", os.path.isfile),
        (image_root, "image folder", os.path.isdir),
    ):
        if not is_there(path):
            raise MissingFileError(
                f"Dataset '{name}': there is no {kind} {os.path.abspath(path)}.{hint}"
            )
    return image_root, json_file


def _known_paths(name: str) -> tuple[str, str]:
    """Return the image folder and the annotation file of a name that is in the catalogs."""
    metadata = MetadataCatalog.get(name) if name in DatasetCatalog else None
    if metadata is None or metadata.get("evaluator_type") != "coco":
        known = [
            n for n in DatasetCatalog if MetadataCatalog.get(n).get("evaluator_type") == "coco"
        ]
        nearest = difflib.get_close_matches(name, known, n=3) or ["coco_2017_train"]
        raise ConfigError(
            f"Dataset '{name}' is not a COCO-format dataset that Detectron2 knows. For your own "
            "data give 'images' (folder) and 'annotations' (JSON file) beside the name; "
            f"the nearest known names are {', '.join(nearest)}."
        )
    return os.fspath(metadata.image_root), os.fspath(metadata.json_file)


def register(
    name: str,
    image_root: str,
    json_file: str,
    classes: list[str],
    class_of: dict[int, int],
    load: Callable[[], Sequence[dict]],
) -> None:
    """Make a name known to Detectron2, or change the order of the classes that it stands for.

    Args:
        class_of: the number of a class by category id.
        load: makes the dataset dicts again.

    Raises:
        ConfigError: the name stands for other files or classes.
    """
    files = {"image_root": image_root, "json_file": json_file, "evaluator_type": "coco"}
    order = {"thing_classes": classes, "thing_dataset_id_to_contiguous_id": class_of}
    known = MetadataCatalog.get(name).as_dict()
    # Whoever loads the same files again says what their classes are; of others' names they stay.
    for key, value in (files if name in _registered else {**files, **order}).items():
        # As strings: paths come as str and as Path. Of the classes the order alone may differ.
        texts = [sorted(x) if key in order else str(x) for x in (known.get(key, value), value)]
        if texts[0] != texts[1]:
            raise ConfigError(
                f"Dataset name '{name}' is taken: it stands for {key} = "
                f"{shortened(known[key])}, and here for {shortened(value)}. Choose another name."
            )
    if name in _registered and name in DatasetCatalog:
        DatasetCatalog.remove(name)
    if name not in DatasetCatalog:
        DatasetCatalog.register(name, load)
        _registered.add(name)
    # Its attributes are written once, and who has it keeps the order that was true for them.
    MetadataCatalog.remove(name)
    MetadataCatalog.get(name).set(**{**known, **files, **order, "name": name})
