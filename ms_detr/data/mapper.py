"""From a dataset record to a model input."""

from collections.abc import Iterable, Sequence
from itertools import compress

import numpy as np
import torch
from detectron2.data.transforms import (
    AugInput,
    Augmentation,
    AugmentationList,
    ResizeTransform,
)
from detectron2.structures import BitMasks, Boxes, BoxMode, Instances
from fvcore.transforms.transform import PadTransform, Transform, TransformList

from ..errors import ConfigError, DataError, MissingFileError
from .batches import Size
from .images import IMAGE_FORMATS, ImageError, load_image
from .segmentation import move_pixels, parse, transformed


class DetrMapper:
    """Read an image, augment it, and build its targets.

    The record isn't changed. The only other input is the state of the random generators, from
    which the augmentations draw: :func:`ms_detr.data.build_train_loader` sets it for every image.

    Args:
        augmentations: Detectron2 augmentations or transforms, applied in this order.
        image_format: "RGB", "BGR" or "L" (grey). Files of any mode are converted and turned
            upright; an alpha channel is dropped, more than 8 bits per channel are an error.
        is_train: build targets.
        masks: with masks, from the annotations' ``segmentation``: polygons, RLE, or bitmaps (H, W)
            of bool or uint8 in datasets of your own.
    """

    def __init__(
        self,
        augmentations: Sequence[Augmentation | Transform],
        image_format: str = "RGB",
        is_train: bool = True,
        masks: bool = False,
    ):
        if image_format not in IMAGE_FORMATS:
            raise ConfigError(
                f"mapper.image_format must be one of {', '.join(IMAGE_FORMATS)}, "
                f"got '{image_format}'."
            )
        if augmentations is None:
            raise ConfigError("mapper.augmentations must be a list; [] means none")
        self.augmentations = AugmentationList(list(augmentations))
        self.image_format = image_format
        self.is_train = is_train
        self.masks = masks

    def __call__(self, record: dict) -> dict:
        """Map one record of :func:`ms_detr.data.coco_dataset`, or another Detectron2 dataset dict.

        Returns:
            - image: uint8 tensor (C, H, W) after augmentation;
            - height, width: of the image file, for which predictions are made;
            - shown_size: (h, w), how much of the augmented image the file's fills, from the
              upper left corner; the rest is padding that an augmentation added;
            - file_name, image_id;
            - instances, in training only: gt_boxes (N, 4), xyxy in pixels of the augmented image
              and clipped to it, and gt_classes (N,). Crowds and boxes that the augmentation cut
              away are left out; N can be 0. With masks, gt_masks (BitMasks, N of H x W) too, and
              an object without a pixel is left out with its box: cut away, or too thin to cover
              the centre of one, be it only after shrinking. Boxes are the annotated ones, also
              where the mask is smaller (amodal boxes).

        Raises:
            MissingFileError: there is no such image file.
            ImageError: the file is no image, or not of the size that the record tells.
            ConfigError: for testing, augmentations that cut, turn or move the image: boxes couldn't
                be told in pixels of the file.
            DataError: the image can't be augmented; or, with masks, an object has no segmentation
                or a wrong one.
        """
        image = self._read(record)
        before = image.shape[:2]
        whose = f"{_name(record)}: {record['file_name']}"
        image, transforms = self._augment(image, whose)
        mapped = {
            "file_name": record["file_name"],
            "image_id": record["image_id"],
            **self._model_input(image, transforms, before),
        }
        if self.is_train:
            annotations = [a for a in record.get("annotations", []) if not a.get("iscrowd", 0)]
            instances = _targets(annotations, transforms, before, image.shape[:2])
            in_sight = instances.gt_boxes.nonempty(threshold=1e-5)
            instances = instances[in_sight]
            if self.masks:
                left = compress(annotations, in_sight.tolist())
                masks = _masks(left, transforms, before, _name(record))
                visible = [bool(mask.any()) for mask in masks]
                instances = instances[torch.tensor(visible, dtype=torch.bool)]
                kept = np.array(list(compress(masks, visible)), dtype=bool)
                kept = kept.reshape(-1, *image.shape[:2])  # also where there is none
                instances.gt_masks = BitMasks(torch.from_numpy(kept))
            mapped["instances"] = instances
        return mapped

    def size(self, record: dict) -> Size:
        """Return the height and width that a record's image will have, without reading the file.

        Where sizes are drawn at random it is a draw, not the one that the image will get.
        """
        stub = _SizeInput(record["height"], record["width"])
        self.augmentations(stub)
        height, width = stub.image.shape[:2]
        return height, width

    def map_image(self, image: np.ndarray, name: str = "the image") -> dict:
        """Map an image that is in memory, without targets.

        Args:
            image: (H, W, C) uint8, upright, in the mapper's format; see `ms_detr.data.load_image`.
            name: for messages.

        Returns:
            image, height, width and shown_size, as of a record.
        """
        return self._model_input(*self._augment(image, name), image.shape[:2])

    def _model_input(self, image: np.ndarray, transforms: TransformList, before: Size) -> dict:
        """Make a model's input of an augmented image that was of a size before."""
        corners = transforms.apply_coords(np.array([[0.0, 0.0], before[::-1]]))
        right, bottom = shown = np.rint(corners).max(0).clip(1, image.shape[1::-1]).astype(int)
        if not self.is_train and np.abs(corners - [(0, 0), shown]).max() > 1e-3:
            raise ConfigError(
                "mapper.augmentations of test images may resize them and then pad them at the "
                "right and the bottom; these do something else, and boxes couldn't be told in "
                f"pixels of the file: {self.augmentations}"
            )
        pixels = torch.from_numpy(np.array(image.transpose(2, 0, 1), order="C"))
        return {
            "height": before[0],
            "width": before[1],
            "shown_size": (int(bottom), int(right)),
            "image": pixels,
        }

    def _read(self, record: dict) -> np.ndarray:
        """Read the image (H, W, C) of a record."""
        path = record["file_name"]
        try:
            image, header = load_image(path, self.image_format)
            if problem := header.problem(record.get("width"), record.get("height")):
                raise ImageError(f"{path} {problem}")
        except (MissingFileError, ImageError) as error:
            raise type(error)(f"{_name(record)}: {error}") from error
        return image

    def _augment(self, image: np.ndarray, whose: str) -> tuple[np.ndarray, TransformList]:
        """Return the augmented image, and what was done to it."""
        augmented = AugInput(image)
        try:
            transforms = self.augmentations(augmented)
        except Exception as error:
            height, width = image.shape[:2]
            raise DataError(
                f"{whose}, {width} x {height} pixels, can't be augmented: {type(error).__name__}: "
                f"{error} (--debug shows where)"
            ) from error
        return augmented.image, transforms


class _SizeInput:
    """Stands in for an AugInput of an image of which there is but the shape: resizing is quick."""

    def __init__(self, height: int, width: int):
        self.image = _stub(height, width)

    def transform(self, transform: Transform) -> None:
        if isinstance(transform, ResizeTransform):
            self.image = _stub(transform.new_h, transform.new_w)
        elif isinstance(transform, PadTransform):
            height, width = self.image.shape[:2]
            height += transform.y0 + transform.y1
            self.image = _stub(height, width + transform.x0 + transform.x1)
        else:
            self.image = transform.apply_image(self.image)


def _stub(height: int, width: int) -> np.ndarray:
    """Make a black image that takes one byte."""
    return np.broadcast_to(np.uint8(0), (int(height), int(width), 3))


def _name(record: dict) -> str:
    return f"image {record['image_id']} of dataset '{record.get('dataset_name', 'unnamed')}'"


def _targets(
    annotations: Sequence[dict], transforms: TransformList, before: Size, after: Size
) -> Instances:
    """Return boxes and classes in the augmented image, clipped to it."""
    boxes = np.array([item["bbox"] for item in annotations], dtype=np.float64).reshape(-1, 4)
    modes = np.array([item["bbox_mode"] for item in annotations])
    for mode in set(modes):
        rows = modes == mode
        boxes[rows] = BoxMode.convert(boxes[rows], BoxMode(mode), BoxMode.XYXY_ABS)
    boxes = boxes.clip(0, before[::-1] * 2)  # or they would reach into padding
    instances = Instances(after)
    instances.gt_boxes = Boxes(torch.from_numpy(transforms.apply_box(boxes)).float())
    instances.gt_boxes.clip(after)
    instances.gt_classes = torch.tensor(
        [item["category_id"] for item in annotations], dtype=torch.int64
    )
    return instances


def _masks(
    annotations: Iterable[dict], transforms: TransformList, before: Size, whose: str
) -> list[np.ndarray]:
    """Return masks (H, W) in the augmented image, empty for objects of which nothing is left."""
    area = move_pixels(np.ones(before, dtype=np.uint8), transforms)
    masks = []
    for item in annotations:
        try:
            segmentation = parse(item.get("segmentation"), *before)
        except DataError as problem:
            raise DataError(
                f"{whose}: an object of class {item['category_id']} with bbox {item['bbox']} "
                f"{problem} (coco_dataset keeps those of a COCO file with masks=True, which "
                "dataloader.masks=true sets in a config)"
            ) from problem
        masks.append(transformed(segmentation, transforms, before, area))
    return masks
