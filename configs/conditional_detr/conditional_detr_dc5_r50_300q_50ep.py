"""Conditional DETR, ResNet-50, DC5, 300 queries, 50 epochs.

Published by its authors: 43.7 box AP on COCO val2017.
"""

from ..common.data.coco import dataloader
from ..common.models.conditional import conditional
from ..common.models.deformable_detr import model
from ..common.optim import two_rates as optimizer
from ..common.schedules import step_50ep as lr_multiplier
from ..common.train import train

model = conditional(model, dilated=True)
train.epochs = 50.0
train.output_dir = "output/conditional_detr_dc5_r50_300q_50ep"
