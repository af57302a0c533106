"""MS-DETR on DETR, ResNet-50, 100 queries, 50 epochs."""

from ..common.data.coco import dataloader
from ..common.models.dense import detr
from ..common.models.ms_detr import model
from ..common.optim import two_rates as optimizer
from ..common.schedules import step_50ep as lr_multiplier
from ..common.train import train

model = detr(model)
model.num_queries = 100
train.epochs = 50.0
train.output_dir = "output/ms_detr_detr_r50_100q_50ep"
