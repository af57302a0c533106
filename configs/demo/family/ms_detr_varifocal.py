"""Small: MS-DETR on Deformable DETR++ with VariFocal loss."""

from ...common.data.demo import dataloader
from ...common.demo import lr_multiplier, optimizer, shrink, soften, train
from ...common.models.iou_aware import varifocal
from ...common.models.ms_detr import model

model = varifocal(shrink(soften(model)))
train.output_dir = "output/demo/family/ms_detr_varifocal"
