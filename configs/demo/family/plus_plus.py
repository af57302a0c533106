"""Small: Deformable DETR++, two-stage."""

from ...common.data.demo import dataloader
from ...common.demo import lr_multiplier, optimizer, shrink, train
from ...common.models.deformable_detr import model

model = shrink(model)
train.output_dir = "output/demo/family/plus_plus"
