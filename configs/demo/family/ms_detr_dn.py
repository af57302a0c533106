"""Small: MS-DETR on Deformable DETR++ with DN-DETR's denoising."""

from ...common.data.demo import dataloader
from ...common.demo import lr_multiplier, optimizer, soften, train
from ...common.demo_family import small_denoising
from ...common.models.ms_detr import model

model = small_denoising(soften(model))
train.output_dir = "output/demo/family/ms_detr_dn"
