"""Small: Deformable DETR++ with Align-DETR's IA-BCE."""

from ...common.data.demo import dataloader
from ...common.demo import lr_multiplier, optimizer, shrink, train
from ...common.models.deformable_detr import model
from ...common.models.iou_aware import ia_bce

model = ia_bce(shrink(model))
train.output_dir = "output/demo/family/ia_bce"
