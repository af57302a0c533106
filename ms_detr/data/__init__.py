"""Data: COCO-format datasets, the DETR recipe's mapper, repeatable loaders, the demo dataset."""

from .augmentation import (
    DETR_SHORT_EDGES,
    PadToSquare,
    RandomChoice,
    ResizeScale,
    ResizeShortestEdge,
    detr_augmentations,
    lsj_augmentations,
    micrograph_augmentations,
    resize_and_flip,
)
from .batches import group_by_size
from .class_order import OtherClassesError, check_order
from .classes import check_classes, check_same_classes, class_names
from .coco import coco_dataset, read_truth
from .copy_paste import CopyPaste
from .demo import DemoSpec, generate_demo
from .fingerprint import changes, fingerprint, fingerprint_of
from .ground_truth import GroundTruth, kept_truth, objects_per_image
from .image_counts import ImageCounts
from .images import ImageError, load_image
from .loader import TrainLoader, build_test_loader, build_train_loader
from .mapper import DetrMapper
from .sampler import TrainingSampler, iterations_per_epoch

__all__ = [
    "DETR_SHORT_EDGES",
    "CopyPaste",
    "DemoSpec",
    "DetrMapper",
    "GroundTruth",
    "ImageCounts",
    "ImageError",
    "OtherClassesError",
    "PadToSquare",
    "RandomChoice",
    "ResizeScale",
    "ResizeShortestEdge",
    "TrainLoader",
    "TrainingSampler",
    "build_test_loader",
    "build_train_loader",
    "changes",
    "check_classes",
    "check_order",
    "check_same_classes",
    "class_names",
    "coco_dataset",
    "detr_augmentations",
    "fingerprint",
    "fingerprint_of",
    "generate_demo",
    "group_by_size",
    "iterations_per_epoch",
    "kept_truth",
    "load_image",
    "lsj_augmentations",
    "micrograph_augmentations",
    "objects_per_image",
    "read_truth",
    "resize_and_flip",
]
