"""COCO 2017 with large-scale jitter, as instance segmentation is trained with long schedules."""

from detectron2.config import LazyCall as L

from ms_detr.data import lsj_augmentations

from .coco import dataloader

dataloader.train.mapper.augmentations = L(lsj_augmentations)(size=1024)
