"""Deformable DETR with learned queries and no box refinement, ResNet-50, 300 queries, 12 epochs."""

from ..common.data.coco import dataloader
from ..common.models.deformable_detr import model
from ..common.models.one_stage import one_stage
from ..common.optim import learned_points as optimizer
from ..common.schedules import step_12ep as lr_multiplier
from ..common.train import train

model = one_stage(model, box_refinement=False)
train.output_dir = "output/deformable_detr_one_stage_r50_300q_12ep"
