"""Small: MS-DETR on DAB-Deformable-DETR."""

from ...common.data.demo import dataloader
from ...common.demo import lr_multiplier, optimizer, soften, train
from ...common.demo_family import small_dab_deformable
from ...common.models.ms_detr import model

model = small_dab_deformable(soften(model))
train.output_dir = "output/demo/family/ms_detr_dab_deformable"
