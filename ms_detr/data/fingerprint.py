"""What tells a dataset from a changed one: a few numbers, for checkpoints."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import blake2b
from typing import Any

import numpy as np

from .dataset_dicts import Records

# Of the datasets that were loaded, by name.
_known: dict[str, dict[str, Any]] = {}


def remember(name: str, records: Sequence[Mapping[str, Any]]) -> None:
    """Keep the fingerprint of a dataset that was loaded."""
    _known[name] = fingerprint(records)


def fingerprint_of(name: str) -> dict[str, Any] | None:
    """Return the fingerprint of a dataset by name, or None if it was not loaded."""
    return _known.get(name)


def fingerprint(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the numbers of images and annotations, and digests of what they are.

    Args:
        records: Detectron2's dataset dicts, of classes in the order of the model's. The numbers of
            categories in the file are no part of it, nor is the folder of the images.

    Returns:
        ``images`` and ``annotations``, counts; ``files``, a digest of ids, names and sizes of the
        images; ``objects``, one of boxes, classes and crowds in the order of the records.
    """
    images = records.images() if isinstance(records, Records) else records
    files = (
        f"{r['image_id']}\0{os.path.basename(r['file_name'])}\0{r['height']}\0{r['width']}\n"
        for r in images
    )
    count = 0

    def objects() -> Iterator[bytes]:
        nonlocal count
        for table in records.tables() if isinstance(records, Records) else _tables(records):
            count += len(table)
            yield table.tobytes()

    digest = _digest(objects())
    return {
        "images": len(records),
        "annotations": count,
        "files": _digest(text.encode() for text in files),
        "objects": digest,
    }


def _tables(records: Sequence[Mapping[str, Any]]) -> Iterator[np.ndarray]:
    """Yield the objects of each image as `ms_detr.data.dataset_dicts.Records` has them."""
    for number, record in enumerate(records):
        yield np.array(
            [
                (number, item["category_id"], item["iscrowd"], *item["bbox"])
                for item in record["annotations"]
            ],
            dtype=np.float64,
        )


def _digest(parts: Iterable[bytes]) -> str:
    digest = blake2b(digest_size=8)
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Say in words how two fingerprints differ."""
    found = [
        f"{now[kind]} {kind} instead of {before[kind]}"
        for kind in ("images", "annotations")
        if before[kind] != now[kind]
    ]
    if before["images"] == now["images"] and before["files"] != now["files"]:
        found.append("other ids, names or sizes of images")
    if before["annotations"] == now["annotations"] and before["objects"] != now["objects"]:
        found.append("other boxes or classes")
    return found
