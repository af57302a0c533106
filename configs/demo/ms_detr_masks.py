"""The demo's MS-DETR with instance masks."""

from ..common.data.demo import dataloader
from ..common.demo import lr_multiplier, optimizer, shrink, small_masks, soften, train
from ..common.models.ms_detr import model

model = small_masks(soften(shrink(model)))
dataloader.masks = True
train.output_dir = "output/demo/ms_detr_masks"
