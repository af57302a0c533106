"""MS-DETR on Deformable DETR, ResNet-50, 300 queries, 12 epochs.

Published by its authors: 47.6 box AP on COCO val2017.
"""

from ..common.data.coco import dataloader
from ..common.models.ms_detr import model
from ..common.optim import optimizer
from ..common.schedules import step_12ep as lr_multiplier
from ..common.train import train

train.output_dir = "output/ms_detr_r50_300q_12ep"
