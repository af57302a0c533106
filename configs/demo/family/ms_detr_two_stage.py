"""Small: MS-DETR on Deformable DETR, two-stage."""

from ...common.data.demo import dataloader
from ...common.demo import lr_multiplier, optimizer, resize, soften, train
from ...common.models.ms_detr import model

model = resize(soften(model))
train.output_dir = "output/demo/family/ms_detr_two_stage"
