"""Deformable DETR, two-stage, with Align-DETR's IA-BCE; one-to-one matching in all layers."""

from ..common.data.coco import dataloader
from ..common.models.deformable_detr import model
from ..common.models.iou_aware import ia_bce
from ..common.optim import optimizer
from ..common.schedules import step_12ep as lr_multiplier
from ..common.train import train

model = ia_bce(model)
train.output_dir = "output/deformable_detr_ia_bce_r50_300q_12ep"
