"""Deformable DETR++, two-stage, ResNet-50, 300 queries, 12 epochs: baseline of the ++ lines.

Published by H-DETR's authors: 47.0 box AP on COCO val2017.
"""

from ..common.data.coco import dataloader
from ..common.models.deformable_detr import model
from ..common.models.plus_plus import plus_plus
from ..common.optim import optimizer
from ..common.schedules import step_12ep as lr_multiplier
from ..common.train import train

model = plus_plus(model)
train.output_dir = "output/deformable_detr_pp_r50_300q_12ep"
