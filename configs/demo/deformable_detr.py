"""The demo's baseline: Deformable DETR++, small, from scratch on generated images."""

from ..common.data.demo import dataloader
from ..common.demo import lr_multiplier, optimizer, shrink, train
from ..common.models.deformable_detr import model

model = shrink(model)
train.output_dir = "output/demo/deformable_detr"
