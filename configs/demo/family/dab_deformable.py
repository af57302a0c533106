"""Small: DAB-Deformable-DETR."""

from ...common.data.demo import dataloader
from ...common.demo import lr_multiplier, optimizer, train
from ...common.demo_family import small_dab_deformable
from ...common.models.deformable_detr import model

model = small_dab_deformable(model)
train.output_dir = "output/demo/family/dab_deformable"
