"""DN-DETR on DAB-Deformable-DETR, ResNet-50, 300 queries, 50 epochs.

Published by its authors: 49.5 box AP on COCO val2017.
"""

from ..common.data.coco import dataloader
from ..common.models.dab_deformable import dab_deformable
from ..common.models.deformable_detr import model
from ..common.models.groups import denoising
from ..common.optim import two_rates as optimizer
from ..common.schedules import step_50ep as lr_multiplier
from ..common.train import train

model = denoising(dab_deformable(model))
train.epochs = 50.0
train.output_dir = "output/dn_dab_deformable_detr_r50_300q_50ep"
