"""From a dataset record to a model input."""

import os
from collections.abc import Sequence

import numpy as np
import torch
from detectron2.data import detection_utils
from detectron2.data.transforms import AugInput, Augmentation, AugmentationList
from detectron2.structures import Boxes, BoxMode, Instances
from fvcore.transforms.transform import Transform, TransformList
from PIL import Image

IMAGE_FORMATS = ("RGB", "BGR", "L")


class DetrMapper:
    """Read an image, augment it, and build its targets.

    The record isn't changed. The only other input is the state of the random generators, from
    which the augmentations draw: :func:`ms_detr.data.build_train_loader` sets it for every image.

    Args:
        augmentations: Detectron2 augmentations or transforms, applied in this order.
        image_format: "RGB", "BGR" or "L" (grey). Files of any mode are converted; EXIF rotation is
            applied, an alpha channel is dropped, more than 8 bits per channel are an error.
        is_train: build targets.
    """

    def __init__(
        self,
        augmentations: Sequence[Augmentation | Transform],
        image_format: str = "RGB",
        is_train: bool = True,
    ):
        if image_format not in IMAGE_FORMATS:
            raise ValueError(
                f"mapper.image_format must be one of {', '.join(IMAGE_FORMATS)}, "
                f"got '{image_format}'."
            )
        if augmentations is None:
            raise ValueError("mapper.augmentations must be a list; [] means none")
        self.augmentations = AugmentationList(list(augmentations))
        self.image_format = image_format
        self.is_train = is_train

    def __call__(self, record: dict) -> dict:
        """Map one record of :func:`ms_detr.data.coco_dataset`, or another Detectron2 dataset dict.

        Returns:
            - image: uint8 tensor (C, H, W) after augmentation;
            - height, width: of the image file, for which predictions are made;
            - file_name, image_id;
            - instances, in training only: gt_boxes (N, 4), xyxy in pixels of the augmented image
              and clipped to it, and gt_classes (N,). Crowds and boxes that the augmentation cut
              away are left out; N can be 0.

        Raises:
            FileNotFoundError: there is no such image file.
            ValueError: the file is no image, or not of the size that the record tells.
        """
        image = self._read(record)
        height, width = image.shape[:2]
        augmented = AugInput(image)
        transforms = self.augmentations(augmented)
        image = augmented.image
        mapped = {
            "file_name": record["file_name"],
            "image_id": record["image_id"],
            "height": height,
            "width": width,
            "image": torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))),
        }
        if self.is_train:
            mapped["instances"] = _targets(record, transforms, image.shape[:2])
        return mapped

    def _read(self, record: dict) -> np.ndarray:
        """The image (H, W, C) of a record."""
        path = record["file_name"]
        whose = f"image {record['image_id']} of dataset '{record.get('dataset_name', 'unnamed')}'"
        if not os.path.exists(path):
            raise FileNotFoundError(f"There is no image file {path} ({whose}).")
        try:
            with Image.open(path) as file:
                mode = file.mode
            image = detection_utils.read_image(path, self.image_format)
        except Exception as error:  # Pillow's decoders raise errors of many kinds
            raise ValueError(
                f"{path} ({whose}) can't be read as an image: {type(error).__name__}: {error}"
            ) from error
        if mode.startswith(("I", "F")):
            raise ValueError(
                f"{path} ({whose}) has more than 8 bits per channel (mode {mode}), which reading "
                "would cut to white: convert it to 8 bits."
            )
        height, width = image.shape[:2]
        expected = (record.get("height", height), record.get("width", width))
        if (height, width) != expected:
            turned = (width, height) == expected
            hint = (
                " Probably its EXIF orientation, which is applied here, was not applied when it "
                "was annotated: remove that tag from the file, or annotate the turned image."
            )
            raise ValueError(
                f"{path} ({whose}) is {width} x {height} pixels, the annotation file says "
                f"{expected[1]} x {expected[0]}: correct width and height there."
                f"{hint if turned else ''}"
            )
        return image


def _targets(record: dict, transforms: TransformList, size: tuple[int, int]) -> Instances:
    """Boxes and classes of the objects that are left in the augmented image (height, width)."""
    annotations = [item for item in record.get("annotations", []) if not item.get("iscrowd", 0)]
    boxes = np.array([item["bbox"] for item in annotations], dtype=np.float64).reshape(-1, 4)
    modes = np.array([item["bbox_mode"] for item in annotations])
    for mode in set(modes):
        rows = modes == mode
        boxes[rows] = BoxMode.convert(boxes[rows], BoxMode(mode), BoxMode.XYXY_ABS)
    instances = Instances(size)
    instances.gt_boxes = Boxes(torch.from_numpy(transforms.apply_box(boxes)).float())
    instances.gt_boxes.clip(size)
    instances.gt_classes = torch.tensor(
        [item["category_id"] for item in annotations], dtype=torch.int64
    )
    return instances[instances.gt_boxes.nonempty(threshold=1e-5)]
