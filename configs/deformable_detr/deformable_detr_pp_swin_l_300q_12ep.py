"""Deformable DETR++, two-stage, Swin-L, 300 queries, 12 epochs.

Published by H-DETR's authors: 54.5 box AP on COCO val2017.
"""

from ..common.data.coco import dataloader
from ..common.models.backbones import swin_large
from ..common.models.deformable_detr import model
from ..common.models.plus_plus import plus_plus
from ..common.optim import optimizer
from ..common.schedules import step_12ep as lr_multiplier
from ..common.train import train

model = swin_large(plus_plus(model), train)
train.output_dir = "output/deformable_detr_pp_swin_l_300q_12ep"
