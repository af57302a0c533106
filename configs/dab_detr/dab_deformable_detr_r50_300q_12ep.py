"""DAB-Deformable-DETR, ResNet-50, 300 queries, 12 epochs."""

from ..common.data.coco import dataloader
from ..common.models.dab_deformable import dab_deformable
from ..common.models.deformable_detr import model
from ..common.optim import two_rates as optimizer
from ..common.schedules import step_12ep as lr_multiplier
from ..common.train import train

model = dab_deformable(model)
train.output_dir = "output/dab_deformable_detr_r50_300q_12ep"
