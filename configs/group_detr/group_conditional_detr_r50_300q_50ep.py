"""Group DETR on Conditional DETR, its first home: 11 groups, ResNet-50, 300 queries, 50 epochs.

No figure that we could verify is published for 50 epochs.
"""

from ..common.data.coco import dataloader
from ..common.models.conditional import conditional
from ..common.models.deformable_detr import model
from ..common.models.groups import group
from ..common.optim import two_rates as optimizer
from ..common.schedules import step_50ep as lr_multiplier
from ..common.train import train

model = group(conditional(model))
train.epochs = 50.0
train.output_dir = "output/group_conditional_detr_r50_300q_50ep"
