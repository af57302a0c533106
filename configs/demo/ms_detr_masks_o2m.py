"""The demo's MS-DETR with masks, supervised one-to-many as well."""

from ..common.data.demo import dataloader
from ..common.demo import lr_multiplier, optimizer, shrink, small_masks, train
from ..common.models.ms_detr import model

model = shrink(model)
model.criterion.terms.o2o.losses["class"].weight = 2.0
model.criterion.terms.o2m.weight = 0.5
model = small_masks(model, terms=("o2o", "o2m"))
dataloader.masks = True
train.output_dir = "output/demo/ms_detr_masks_o2m"
