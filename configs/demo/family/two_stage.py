"""Small: Deformable DETR, two-stage."""

from ...common.data.demo import dataloader
from ...common.demo import lr_multiplier, optimizer, resize, train
from ...common.models.deformable_detr import model

model = resize(model)
train.output_dir = "output/demo/family/two_stage"
