"""DETR, ResNet-50, 100 queries, 50 epochs.

Published by Conditional DETR's authors: 34.8 box AP on COCO val2017.
"""

from ..common.data.coco import dataloader
from ..common.models.deformable_detr import model
from ..common.models.dense import detr
from ..common.optim import two_rates as optimizer
from ..common.schedules import step_50ep as lr_multiplier
from ..common.train import train

model = detr(model)
model.num_queries = 100
train.epochs = 50.0
train.output_dir = "output/detr_r50_100q_50ep"
