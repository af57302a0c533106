"""Deformable DETR++, two-stage, Swin-T, 300 queries, 12 epochs.

Published by H-DETR's authors: 49.3 box AP on COCO val2017.
"""

from ..common.data.coco import dataloader
from ..common.models.backbones import swin_tiny
from ..common.models.deformable_detr import model
from ..common.models.plus_plus import plus_plus
from ..common.optim import optimizer
from ..common.schedules import step_12ep as lr_multiplier
from ..common.train import train

model = swin_tiny(plus_plus(model), train)
train.output_dir = "output/deformable_detr_pp_swin_t_300q_12ep"
