"""MS-DETR on Deformable DETR, ResNet-101, 300 queries, 12 epochs."""

from ..common.data.coco import dataloader
from ..common.models.backbones import resnet101
from ..common.models.ms_detr import model
from ..common.optim import optimizer
from ..common.schedules import step_12ep as lr_multiplier
from ..common.train import train

model = resnet101(model, train)
train.output_dir = "output/ms_detr_r101_300q_12ep"
