"""Small: MS-DETR on Group DETR on Deformable DETR++."""

from ...common.data.demo import dataloader
from ...common.demo import lr_multiplier, optimizer, soften, train
from ...common.demo_family import small_group
from ...common.models.ms_detr import model

model = small_group(soften(model))
train.output_dir = "output/demo/family/ms_detr_group"
