"""MS-DETR, implementation (b): both supervisions at the layer's output, cross-attention first."""

from ..common.data.coco import dataloader
from ..common.models.implementations import at_the_output
from ..common.models.ms_detr import model
from ..common.optim import optimizer
from ..common.schedules import step_12ep as lr_multiplier
from ..common.train import train

model = at_the_output(model)
train.output_dir = "output/ms_detr_b_r50_300q_12ep"
