"""Small: MS-DETR on Deformable DETR++ with Align-DETR's IA-BCE."""

from ...common.data.demo import dataloader
from ...common.demo import lr_multiplier, optimizer, shrink, soften, train
from ...common.models.iou_aware import ia_bce
from ...common.models.ms_detr import model

model = ia_bce(shrink(soften(model)))
train.output_dir = "output/demo/family/ms_detr_ia_bce"
