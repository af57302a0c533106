"""MS-DETR on Align-DETR, ResNet-50, four feature levels, 900 queries, 12 epochs.

One-to-many supervision keeps its own assignment and focal loss. No figure is published for this
composition.
"""

from ..common.data.coco import dataloader
from ..common.models.align import align
from ..common.models.ms_detr import model
from ..common.optim import two_rates as optimizer
from ..common.schedules import step_12ep as lr_multiplier
from ..common.train import train

model = align(model)
train.output_dir = "output/ms_detr_align_r50_4scale_12ep"
