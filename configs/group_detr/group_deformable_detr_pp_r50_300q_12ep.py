"""Group DETR with 11 groups on Deformable DETR++, ResNet-50, 300 queries, 12 epochs.

The further groups take the proposals that follow the first 300. No figure is published for this
composition.
"""

from ..common.data.coco import dataloader
from ..common.models.deformable_detr import model
from ..common.models.groups import group
from ..common.models.plus_plus import plus_plus
from ..common.optim import optimizer
from ..common.schedules import step_12ep as lr_multiplier
from ..common.train import train

model = group(plus_plus(model))
train.output_dir = "output/group_deformable_detr_pp_r50_300q_12ep"
