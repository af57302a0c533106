"""Deformable DETR, two-stage with box refinement, ResNet-101, 300 queries, 12 epochs."""

from ..common.data.coco import dataloader
from ..common.models.backbones import resnet101
from ..common.models.deformable_detr import model
from ..common.optim import optimizer
from ..common.schedules import step_12ep as lr_multiplier
from ..common.train import train

model = resnet101(model, train)
train.output_dir = "output/deformable_detr_r101_300q_12ep"
