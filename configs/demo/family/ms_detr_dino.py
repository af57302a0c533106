"""Small: MS-DETR on DINO."""

from ...common.data.demo import dataloader
from ...common.demo import lr_multiplier, optimizer, soften, train
from ...common.demo_family import small_dino
from ...common.models.ms_detr import model

model = small_dino(soften(model))
train.output_dir = "output/demo/family/ms_detr_dino"
