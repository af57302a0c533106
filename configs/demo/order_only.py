"""An ablation, not the baseline: MS-DETR's order of sublayers without one-to-many supervision."""

from ..common.data.demo import dataloader
from ..common.demo import lr_multiplier, optimizer, shrink, train
from ..common.models.ms_detr import model

model = shrink(model)
model.criterion.terms.o2o.losses["class"].weight = 2.0
model.criterion.terms.o2m = None
train.output_dir = "output/demo/order_only"
