"""Small: MS-DETR on Deformable DETR++ with DINO's contrastive denoising."""

from ...common.data.demo import dataloader
from ...common.demo import lr_multiplier, optimizer, soften, train
from ...common.demo_family import small_contrastive
from ...common.models.ms_detr import model

model = small_contrastive(soften(model))
train.output_dir = "output/demo/family/ms_detr_cdn"
