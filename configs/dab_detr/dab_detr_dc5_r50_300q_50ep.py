"""DAB-DETR, ResNet-50, DC5, 300 queries, 50 epochs.

Published by detrex, which also trains res2: 44.6 box AP on COCO val2017.
"""

from ..common.data.coco import dataloader
from ..common.models.dab import dab
from ..common.models.deformable_detr import model
from ..common.optim import two_rates as optimizer
from ..common.schedules import step_50ep as lr_multiplier
from ..common.train import train

model = dab(model, dilated=True)
train.epochs = 50.0
train.output_dir = "output/dab_detr_dc5_r50_300q_50ep"
