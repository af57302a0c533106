"""Small: Deformable DETR++ with VariFocal loss."""

from ...common.data.demo import dataloader
from ...common.demo import lr_multiplier, optimizer, shrink, train
from ...common.models.deformable_detr import model
from ...common.models.iou_aware import varifocal

model = varifocal(shrink(model))
train.output_dir = "output/demo/family/varifocal"
