"""The objects of an annotation file, checked against its images, as arrays by image."""

from __future__ import annotations

import os
import reprlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from ..errors import DataError, listed, shortened
from .areas import areas_of
from .array_file import Arrays
from .box_plausibility import box_findings
from .coco_json import CocoFile, read_coco
from .coco_tables import CROWD, as_written
from .mask_plausibility import mask_findings
from .packed import PackedBytes, PackedMasks
from .plausibility import remark_on
from .remarks import Remark, tell_all
from .segmentation import Segmentation, parse, to_runs


def read_objects(json_file: str | os.PathLike, masks: bool, runs: bool) -> Arrays:
    """Read and check an annotation file.

    Args:
        masks: keep the segmentations.
        runs: of all of them as RLE too, for evaluation, and take their areas into account.

    Returns:
        Of I images by ascending id, and N objects by image, in the order of the file, without
        those whose boxes are degenerate:

        - image_id, height, width (I,); floats (I, 2), which of height and width are so written;
          names and name_starts, file names in UTF-8 (see `PackedBytes`);
        - starts (I + 1,): where the objects of each image begin;
        - bbox (N, 4) x, y, width, height; category (N,), a place in the sorted ids of the
          categories; crowd (N,); area (N,);
        - with masks: masks, mask_starts and are_runs (see `PackedMasks`); runs and run_starts.

        As facts the categories, and what is said of the file and of the areas.

    Raises:
        DataError: it isn't COCO's format, contradicts itself, or has an annotation that is wrong.
    """
    return _Objects(read_coco(json_file, masks), json_file, masks).arrays(runs)


class _Objects:
    """The annotations of a file on their way into arrays."""

    def __init__(self, file: CocoFile, json_file: str | os.PathLike, masks: bool):
        self._file = file
        self._path = json_file
        self._masks = masks
        self._remarks: list[Remark] = []
        self._order = np.argsort(file.image_ids, kind="stable")  # of the images
        self._image_ids = file.image_ids[self._order]
        self._heights, self._widths = (
            file.images.column(name)[self._order] for name in ("height", "width")
        )
        self._categories = np.array(sorted(c["id"] for c in file.categories.entries), np.int64)

    def arrays(self, runs: bool) -> Arrays:
        """Check everything, and take from the file what is kept."""
        table, ids = self._file.annotations, self._file.annotation_ids
        boxes = table.column("bbox").reshape(-1, 4)
        facts = table.column("facts").astype(np.uint8) | table.column("whole").astype(np.uint8)
        image_of = self._places("image", self._image_ids)
        category_of = self._places("category", self._categories)
        sizes = np.stack([self._widths, self._heights], 1).astype(np.float64)[image_of]
        kept = np.flatnonzero(~are_degenerate(boxes, sizes))
        masks = self._checked(boxes, facts, sizes, image_of, kept)
        # By image; of each in the order of the file.
        by_image = np.argsort(image_of[kept], kind="stable")
        rows = kept[by_image]
        boxes, sizes, facts = boxes[rows], sizes[rows], facts[rows]
        objects = self._masks_of(masks, by_image, runs)
        areas, said = areas_of(
            table, rows, ids[rows], facts, boxes, sizes,
            PackedBytes(objects["runs"], objects["run_starts"]) if runs else None, self._masks,
        )  # fmt: skip
        counts = np.bincount(image_of[rows], minlength=len(self._image_ids))
        objects |= {
            "starts": np.concatenate(([0], np.cumsum(counts))),
            "bbox": boxes,
            "category": category_of[rows],
            "crowd": facts & CROWD != 0,
            "area": areas,
        }
        return Arrays(
            {
                "categories": self._file.categories.entries,
                "remarks": [asdict(remark) for remark in self._remarks],
                "area_remarks": [asdict(remark) for remark in said],
            },
            self._images() | objects,
        )

    def _checked(
        self,
        boxes: np.ndarray,
        facts: np.ndarray,
        sizes: np.ndarray,
        image_of: np.ndarray,
        kept: np.ndarray,
    ) -> PackedMasks | None:
        """Look at all annotations; returns the masks of those that are kept, if they are wanted."""
        self._check_crowds(kept)
        masks = self._segmentations(kept, sizes) if self._masks else None

        def describe(row: int) -> str:
            width, height = sizes[row]
            box = reprlib.repr(as_written(boxes[row], facts[row]))
            number = self._file.annotation_ids[row]
            return f"annotation {number}: {box} in an image of {width:g} x {height:g}"

        self._remark(remark_on(box_findings(boxes, sizes, image_of), len(boxes), describe))
        if masks is not None:
            found = mask_findings(masks, boxes[kept], sizes[kept])
            self._remark(remark_on(found, len(kept), lambda row: describe(kept[row])))
        self._remark(self._of_dropped(kept, boxes, facts))
        return masks

    def _images(self) -> dict[str, np.ndarray]:
        names = self._file.images.names().taken(self._order)
        return {
            "image_id": self._image_ids,
            "height": self._heights.astype(np.int32),
            "width": self._widths.astype(np.int32),
            "floats": self._file.images.column("floats")[self._order],
            "names": names.content,
            "name_starts": names.starts,
        }

    def _places(self, kind: str, known: np.ndarray) -> np.ndarray:
        """Return the places, in sorted ids, of the images or categories that annotations name."""
        key = f"{kind}_id"
        wanted, huge = self._file.annotations.column(key), self._file.annotations.huge(key)
        places = np.searchsorted(known, wanted).clip(max=len(known) - 1).astype(np.int32)
        unknown = known[places] != wanted
        unknown[list(huge)] = True
        if unknown.any():
            row = int(np.argmax(unknown))
            raise DataError(
                f"{self._path}: annotation {self._file.annotation_ids[row]} has {key} "
                f"{huge.get(row, wanted[row])}, which no {kind} of the file has "
                f"(ids {shortened(known.tolist())})."
            )
        return places

    def _check_crowds(self, kept: np.ndarray) -> None:
        odd = self._file.annotations.odd_crowds
        wrong = np.intersect1d(np.array(list(odd), np.int64), kept)
        if len(wrong):
            row = int(wrong[0])
            raise DataError(
                f"{self._path}: annotation {self._file.annotation_ids[row]} has iscrowd = "
                f"{odd[row]}, not 0 or 1."
            )

    def _segmentations(self, kept: np.ndarray, sizes: np.ndarray) -> PackedMasks:
        wanted = np.zeros(len(sizes), bool)
        wanted[kept] = True
        values = zip(
            self._file.annotation_ids, self._file.annotations.segmentations(), wanted, strict=True
        )
        annotations = ({"id": i, "segmentation": value} for i, value, is_kept in values if is_kept)
        return segmentations_of(annotations, sizes[kept], self._path, self._remarks)

    def _masks_of(
        self, masks: PackedMasks | None, order: np.ndarray, runs: bool
    ) -> dict[str, np.ndarray]:
        if masks is None:
            return {}
        masks = masks.taken(order)
        content = masks.content
        found = {
            "masks": content.content, "mask_starts": content.starts, "are_runs": masks.are_runs
        }  # fmt: skip
        if runs:
            sizes = masks.sizes.tolist()
            packed = PackedBytes.of(
                to_runs(mask, *size)["counts"] for mask, size in zip(masks, sizes, strict=True)
            )
            found |= {"runs": packed.content, "run_starts": packed.starts}
        return found

    def _remark(self, remark: Remark | None) -> None:
        if remark is not None:
            self._remarks.append(remark)

    def _of_dropped(self, kept: np.ndarray, boxes: np.ndarray, facts: np.ndarray) -> Remark | None:
        """Tell of annotations that can't be used, an error if most can't."""
        total = len(boxes)
        dropped = np.ones(total, bool)
        dropped[kept] = False
        if not dropped.any():
            return None
        row = int(np.argmax(dropped))
        count = int(dropped.sum())
        what = (
            f"{count} of {total} annotations, whose boxes have no size, are not finite or lie "
            f"outside the image; the first is annotation {self._file.annotation_ids[row]} with "
            f"bbox {as_written(boxes[row], facts[row])}."
        )
        error = (
            f" has {what} Correct them, or set trust_annotations=true beside its name "
            "in the config to go on without them."
        )
        return Remark(f": dropped {what}", error if 2 * count > total else None)


def are_degenerate(boxes: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Tell which boxes (n, 4) are not finite, or have no size inside their images.

    Args:
        sizes: (n, 2) width and height of the image of each.
    """
    start, extent = boxes[:, :2], boxes[:, 2:]
    with np.errstate(over="ignore", invalid="ignore"):
        outside = (extent <= 0) | (start + extent <= 0) | (start >= sizes)
    return ~np.isfinite(boxes).all(1) | outside.any(1)


def segmentations_of(
    annotations: Iterable[Mapping[str, Any]],
    sizes: np.ndarray,
    json_file: str | os.PathLike,
    remarks: list[Remark] | None = None,
) -> PackedMasks:
    """Check the segmentations of annotations; one error tells of all that are wrong.

    Args:
        annotations: with id and segmentation.
        sizes: (n, 2) width and height of the image of each.
        remarks: takes what is to be said; None says it at once.
    """
    problems, remnants = [], []
    in_pixels = sizes[:, ::-1].astype(int)

    def parsed() -> Iterator[Segmentation]:
        for annotation, (height, width) in zip(annotations, in_pixels.tolist(), strict=True):
            value = annotation.get("segmentation")
            try:
                found = parse(value, height, width)
            except DataError as problem:
                problems.append(f"annotation {annotation['id']} {problem}")
                continue
            if isinstance(value, list) and len(found) < len(value):
                remnants.append(annotation["id"])
            yield found

    masks = PackedMasks.of(parsed(), in_pixels)
    if problems:
        raise DataError(
            f"{json_file}: {len(problems)} of {len(sizes)} annotations can't be used with "
            f"masks: {listed(problems, 3, '; ')}. Mend or remove them, or "
            "train without masks: with a config that has none, and dataloader.masks=false."
        )
    said = []
    if remnants:
        said = [
            Remark(
                f": left out polygons of one or two points of {len(remnants)} annotations; the "
                f"first is annotation {remnants[0]}."
            )
        ]
    if remarks is None:
        tell_all(said, str(json_file))
    else:
        remarks += said
    return masks
