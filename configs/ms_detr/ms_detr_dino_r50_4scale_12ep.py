"""MS-DETR on DINO, ResNet-50, four feature levels, 900 queries, 12 epochs."""

from ..common.data.coco import dataloader
from ..common.models.dino import dino
from ..common.models.ms_detr import model
from ..common.optim import two_rates as optimizer
from ..common.schedules import step_12ep as lr_multiplier
from ..common.train import train

model = dino(model)
train.output_dir = "output/ms_detr_dino_r50_4scale_12ep"
