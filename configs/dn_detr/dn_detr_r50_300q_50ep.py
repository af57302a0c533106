"""DN-DETR on DAB-DETR, its first home, ResNet-50, 300 queries, 50 epochs.

Published by its authors: 44.1 box AP on COCO val2017.
"""

from ..common.data.coco import dataloader
from ..common.models.dab import dab
from ..common.models.deformable_detr import model
from ..common.models.groups import denoising
from ..common.optim import two_rates as optimizer
from ..common.schedules import step_50ep as lr_multiplier
from ..common.train import train

model = dab(model)
model.query_initializer.fixed_centers = False
model.query_initializer.learned_content = True
model = denoising(model)
train.epochs = 50.0
train.output_dir = "output/dn_detr_r50_300q_50ep"
