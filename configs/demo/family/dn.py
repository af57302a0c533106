"""Small: Deformable DETR++ with DN-DETR's denoising."""

from ...common.data.demo import dataloader
from ...common.demo import lr_multiplier, optimizer, train
from ...common.demo_family import small_denoising
from ...common.models.deformable_detr import model

model = small_denoising(model)
train.output_dir = "output/demo/family/dn"
