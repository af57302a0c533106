"""The generated demo dataset (see ms_detr/data/demo.py), augmented by flips alone."""

import os

from detectron2.config import LazyCall as L
from detectron2.data.transforms import RandomFlip

from ms_detr.data.demo import NAME

from .coco import dataloader

_root = os.path.join(os.environ.get("DETECTRON2_DATASETS", "datasets"), NAME)

for _split, _loader in (("train", dataloader.train), ("val", dataloader.test)):
    _loader.dataset.name = f"{NAME}_{_split}"
    _loader.dataset.images = os.path.join(_root, _split)
    _loader.dataset.annotations = os.path.join(_root, "annotations", f"{_split}.json")

dataloader.train.mapper.augmentations = [L(RandomFlip)(prob=0.5)]
dataloader.train.total_batch_size = 8
# A loader process would compete with the two compute threads.
dataloader.train.num_workers = 0
dataloader.test.mapper.augmentations = []
dataloader.test.batch_size = 8
dataloader.test.num_workers = 0
# AP after NMS beside AP: the difference is what duplicate detections cost.
dataloader.evaluator.nms_threshold = 0.7
