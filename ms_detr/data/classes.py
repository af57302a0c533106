"""The classes of datasets that were loaded: as many as the model's, and the same everywhere."""

import os
import reprlib
from itertools import zip_longest

from detectron2.data import DatasetCatalog, MetadataCatalog

from ..errors import ConfigError, DataError, listed


def class_names(name: str) -> list[str]:
    """Return the class names of a dataset of Detectron2, or one that `coco_dataset` has loaded."""
    names = MetadataCatalog.get(name).get("thing_classes") if name in DatasetCatalog else None
    if names is None:
        raise DataError(f"The classes of dataset '{name}' are unknown: load the dataset first.")
    return list(names)


def check_classes(name: str, num_classes: int) -> None:
    """Raise ConfigError unless the dataset has as many classes as the model."""
    classes = class_names(name)
    found, names = len(classes), listed(map(reprlib.repr, classes))
    difference = f"Dataset '{name}' has {found} classes ({names}), the model {num_classes}"
    if found < num_classes:
        raise ConfigError(
            f"{difference}. If the model is to know these alone, set model.num_classes={found}; if "
            "they are a part of what it knows, add the other categories to "
            f"{_json_file(name)}: they need no objects, and their AP is nan."
        )
    if found > num_classes:
        raise ConfigError(f"{difference}: set model.num_classes={found}.")


def check_same_classes(name: str, other: str) -> None:
    """Raise DataError unless two datasets have the same classes; says which lack where."""
    ours, theirs = class_names(name), class_names(other)
    lacking = [
        f"{_json_file(lacks)} lacks {listed(map(reprlib.repr, missing))}"
        for lacks, missing in (
            (name, [c for c in theirs if c not in ours]),
            (other, [c for c in ours if c not in theirs]),
        )
        if missing
    ]
    if lacking:
        raise DataError(
            f"Datasets '{name}' and '{other}' need the same 'categories': {'; '.join(lacking)}. "
            "Correct the names, or add what is missing, also where it has no objects (its AP is "
            "nan); of what training then has more model.num_classes must know."
        )
    for number, (one, another) in enumerate(zip_longest(ours, theirs)):
        if one != another:
            raise DataError(
                f"Class {number} is {one!r} in dataset '{name}' and {another!r} in '{other}': both "
                "annotation files need the same categories, in the same order of their ids."
            )


def _json_file(name: str) -> str:
    return os.fspath(MetadataCatalog.get(name).get("json_file") or f"the file of '{name}'")
