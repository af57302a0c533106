"""What a model has found on the images of a dataset.

In arrays, which take a tenth of dicts' memory, and of the time to send them to the main process.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, compress
from typing import Any

import numpy as np
from detectron2.structures import BoxMode, Instances
from pycocotools import mask as coco_mask
from torchvision.ops import batched_nms

from ..structures import at_least_single


@dataclass(frozen=True, eq=False)
class ImageDetections:
    """The n detections of one image.

    Attributes:
        image_id: as the dataset has it.
        boxes: (n, 4) as (x, y, width, height) in pixels.
        scores: (n,).
        classes: (n,) int64.
        survives: (n,) bool, NMS; None if it wasn't done.
        masks: n compressed run lengths; None without masks.
        size: (height, width) of the masks.
    """

    image_id: Any
    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray
    survives: np.ndarray | None
    masks: Sequence[bytes] | None
    size: tuple[int, ...]

    @classmethod
    def of(
        cls, image_id: Any, instances: Instances, nms_threshold: float | None, masks: bool
    ) -> ImageDetections:
        """Take a model's output on the CPU, with class-wise NMS of its boxes if wanted."""
        boxes, scores = instances.pred_boxes.tensor, instances.scores
        survives = runs = None
        if nms_threshold is not None:
            kept = batched_nms(boxes, scores, instances.pred_classes, nms_threshold)
            survives = np.zeros(len(instances), bool)
            survives[kept.numpy()] = True
        if masks:
            bitmaps = (mask.numpy().astype(np.uint8, order="F") for mask in instances.pred_masks)
            runs = [coco_mask.encode(bitmap)["counts"] for bitmap in bitmaps]
        return cls(
            image_id,
            BoxMode.convert(at_least_single(boxes), BoxMode.XYXY_ABS, BoxMode.XYWH_ABS).numpy(),
            at_least_single(scores).numpy(),
            instances.pred_classes.numpy(),
            survives,
            runs,
            tuple(instances.pred_masks.shape[1:]) if masks else instances.image_size,
        )

    def in_coco_format(self, category_ids: Sequence[int]) -> Iterator[dict[str, Any]]:
        """Yield COCO's results, ready for JSON."""
        values = self.boxes.tolist(), self.scores.tolist(), self.classes.tolist()
        for number, (box, score, k) in enumerate(zip(*values, strict=True)):
            result = {
                "image_id": self.image_id,
                "category_id": category_ids[k],
                "bbox": box,
                "score": score,
            }
            if self.masks is not None:
                counts = self.masks[number].decode()
                result["segmentation"] = {"size": list(self.size), "counts": counts}
            yield result


@dataclass(frozen=True, eq=False)
class Detections:
    """The detections of all images, one after the other: see `ImageDetections`.

    Attributes:
        images: (n,) int64, ids.
    """

    images: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray
    survives: np.ndarray | None
    masks: Sequence[bytes] | None

    @classmethod
    def join(cls, images: Sequence[ImageDetections], nms: bool, masks: bool) -> Detections:
        """Join the detections of all images, which may be none."""

        def joined(
            name: str, shape: tuple[int, ...] = (0,), dtype: type = np.float32
        ) -> np.ndarray:
            return np.concatenate([np.empty(shape, dtype), *(getattr(i, name) for i in images)])

        return cls(
            np.repeat(
                np.array([i.image_id for i in images], np.int64), [len(i.scores) for i in images]
            ),
            joined("boxes", (0, 4)),
            joined("scores"),
            joined("classes", dtype=np.int64),
            joined("survives", dtype=bool) if nms else None,
            list(chain.from_iterable(i.masks or () for i in images)) if masks else None,
        )

    @classmethod
    def concatenated(cls, parts: Sequence[Detections]) -> Detections:
        """Put parts, at least one, behind each other."""

        def joined(name: str) -> Any:
            columns = [getattr(part, name) for part in parts]
            return None if columns[0] is None else np.concatenate(columns)

        masks = None
        if parts[0].masks is not None:
            masks = list(chain.from_iterable(part.masks or () for part in parts))
        return cls(
            joined("images"),
            joined("boxes"),
            joined("scores"),
            joined("classes"),
            joined("survives"),
            masks,
        )

    def taken(self, wanted: np.ndarray) -> Detections:
        """Return those of which ``wanted`` (n,) is true."""
        return Detections(
            self.images[wanted],
            self.boxes[wanted],
            self.scores[wanted],
            self.classes[wanted],
            None if self.survives is None else self.survives[wanted],
            None if self.masks is None else list(compress(self.masks, wanted)),
        )
