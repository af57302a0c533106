"""The baseline: Deformable DETR, two-stage with box refinement, ResNet-50, 300 queries, 12 epochs.

Published by H-Deformable-DETR's authors for this recipe: 43.7 box AP on COCO val2017.
"""

from ..common.data.coco import dataloader
from ..common.models.deformable_detr import model
from ..common.optim import optimizer
from ..common.schedules import step_12ep as lr_multiplier
from ..common.train import train

train.output_dir = "output/deformable_detr_r50_300q_12ep"
