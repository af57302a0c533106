"""The demo's baseline with instance masks."""

from ..common.data.demo import dataloader
from ..common.demo import lr_multiplier, optimizer, shrink, small_masks, train
from ..common.models.deformable_detr import model

model = small_masks(shrink(model))
dataloader.masks = True
train.output_dir = "output/demo/deformable_detr_masks"
