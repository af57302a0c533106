"""The demo's MS-DETR with masks, supervised one-to-many as well."""

from ..common.data.demo import dataloader
from ..common.demo import lr_multiplier, optimizer, shrink, small_masks, soften, train
from ..common.models.ms_detr import model

model = small_masks(soften(shrink(model)), terms=("o2o", "o2m"))
dataloader.masks = True
train.output_dir = "output/demo/ms_detr_masks_o2m"
