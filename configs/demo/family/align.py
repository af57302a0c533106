"""Small: Align-DETR."""

from ...common.data.demo import dataloader
from ...common.demo import lr_multiplier, optimizer, train
from ...common.demo_family import small_align
from ...common.models.deformable_detr import model

model = small_align(model)
train.output_dir = "output/demo/family/align"
