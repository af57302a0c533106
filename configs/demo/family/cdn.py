"""Small: Deformable DETR++ with DINO's contrastive denoising."""

from ...common.data.demo import dataloader
from ...common.demo import lr_multiplier, optimizer, train
from ...common.demo_family import small_contrastive
from ...common.models.deformable_detr import model

model = small_contrastive(model)
train.output_dir = "output/demo/family/cdn"
