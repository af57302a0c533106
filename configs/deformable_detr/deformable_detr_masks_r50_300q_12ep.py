"""Deformable DETR, two-stage, with instance masks by dot product, ResNet-50, 12 epochs.

No figure is published for this composition.
"""

from ..common.data.coco import dataloader
from ..common.models.deformable_detr import model
from ..common.models.masks import with_masks
from ..common.optim import optimizer
from ..common.schedules import step_12ep as lr_multiplier
from ..common.train import train

model = with_masks(model)
dataloader.masks = True
train.output_dir = "output/deformable_detr_masks_r50_300q_12ep"
