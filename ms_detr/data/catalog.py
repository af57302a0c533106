"""Datasets by their names: where the files lie, and what Detectron2's catalogs say of them."""

import difflib
import os
from collections.abc import Callable, Sequence

from detectron2.data import DatasetCatalog, MetadataCatalog

from ..errors import ConfigError, MissingFileError, shortened
from .demo import NAME as DEMO
from .registered import as_coco_file

LVIS = "lvis"

# By evaluator_type: those with files of COCO's form, and those without instances.
WITH_FILES = ("coco", LVIS)
OTHERS = ("sem_seg", "cityscapes_sem_seg", "coco_panoptic_seg", "ade20k_panoptic_seg")

_registered: set[str] = set()  # names in Detectron2's catalog that are ours

_BUILTIN_HINT = (
    " Detectron2's datasets lie in the folder that the environment variable DETECTRON2_DATASETS "
    "names ('datasets' if unset; set it before Python starts). COCO belongs there as "
    "coco/train2017/*.jpg, coco/val2017/*.jpg and coco/annotations/instances_{train,val}2017.json, "
    "LVIS as lvis/lvis_v1_{train,val}.json beside it."
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
        hint = _BUILTIN_HINT if name.startswith(("coco_", "lvis_")) else ""
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
    if name not in DatasetCatalog or _kind(name) in OTHERS:
        known = [n for n in DatasetCatalog if _kind(n) not in OTHERS]
        nearest = difflib.get_close_matches(name, known, n=3) or ["coco_2017_train"]
        raise ConfigError(
            f"Dataset '{name}' is not a COCO-format dataset that Detectron2 knows. For your own "
            "data give 'images' (folder) and 'annotations' (JSON file) beside the name, or "
            "register it with Detectron2, in your config file; "
            f"the nearest known names are {', '.join(nearest)}."
        )
    metadata = MetadataCatalog.get(name)
    if _kind(name) in WITH_FILES and metadata.get("json_file") is not None:
        return os.fspath(metadata.image_root), os.fspath(metadata.json_file)
    return as_coco_file(name)


def _kind(name: str) -> str:
    """What Detectron2 says that evaluates a dataset; empty where nobody has said."""
    return MetadataCatalog.get(name).get("evaluator_type", "")


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
    known = MetadataCatalog.get(name).as_dict()
    kind = known.get("evaluator_type", "coco")
    files = {"image_root": image_root, "json_file": json_file, "evaluator_type": kind}
    order = {"thing_classes": classes, "thing_dataset_id_to_contiguous_id": class_of}
    if kind == LVIS:  # Detectron2's names are synonyms of the file's
        known = {key: value for key, value in known.items() if key not in order}
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
