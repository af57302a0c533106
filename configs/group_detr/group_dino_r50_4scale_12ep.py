"""Group DETR on DINO, 11 groups, ResNet-50, four feature levels, 900 queries, 12 epochs.

Every group selects its queries by itself; contrastive denoising sees the first. PaddleDetection
published 49.6 box AP on COCO val2017 for its composition of the two.
"""

from ..common.data.coco import dataloader
from ..common.models.deformable_detr import model
from ..common.models.dino import dino
from ..common.models.groups import group_two_stage
from ..common.optim import two_rates as optimizer
from ..common.schedules import step_12ep as lr_multiplier
from ..common.train import train

model = group_two_stage(dino(model))
train.output_dir = "output/group_dino_r50_4scale_12ep"
