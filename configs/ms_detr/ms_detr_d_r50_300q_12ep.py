"""MS-DETR, implementation (d): one-to-many supervision behind self-attention, which comes first."""

from ..common.data.coco import dataloader
from ..common.models.implementations import after_self_attention
from ..common.models.ms_detr import model
from ..common.optim import optimizer
from ..common.schedules import step_12ep as lr_multiplier
from ..common.train import train

model = after_self_attention(model)
train.output_dir = "output/ms_detr_d_r50_300q_12ep"
