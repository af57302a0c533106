"""MS-DETR on DAB-DETR, ResNet-50, 300 queries, 50 epochs."""

from ..common.data.coco import dataloader
from ..common.models.dab import dab
from ..common.models.ms_detr import model
from ..common.optim import two_rates as optimizer
from ..common.schedules import step_50ep as lr_multiplier
from ..common.train import train

model = dab(model)
train.epochs = 50.0
train.output_dir = "output/ms_detr_dab_r50_300q_50ep"
