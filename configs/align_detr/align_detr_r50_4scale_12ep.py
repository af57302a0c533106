"""Align-DETR on DINO, ResNet-50, four feature levels, 900 queries, 12 epochs.

Published by its authors, who also train res2: 50.3 box AP on COCO val2017.
"""

from ..common.data.coco import dataloader
from ..common.models.align import align
from ..common.models.deformable_detr import model
from ..common.optim import two_rates as optimizer
from ..common.schedules import step_12ep as lr_multiplier
from ..common.train import train

model = align(model)
train.output_dir = "output/align_detr_r50_4scale_12ep"
