"""Hybrid DETR on Deformable DETR++, ResNet-50, 300 queries, 12 epochs.

Published by its authors: 48.7 box AP on COCO val2017.
"""

from ..common.data.coco import dataloader
from ..common.models.deformable_detr import model
from ..common.models.groups import hybrid
from ..common.models.plus_plus import plus_plus
from ..common.optim import optimizer
from ..common.schedules import step_12ep as lr_multiplier
from ..common.train import train

model = hybrid(plus_plus(model))
train.output_dir = "output/hybrid_deformable_detr_pp_r50_300q_12ep"
