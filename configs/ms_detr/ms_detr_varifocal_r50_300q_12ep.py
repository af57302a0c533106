"""MS-DETR whose one-to-one classification is VariFocal loss; one-to-many keeps focal loss."""

from ..common.data.coco import dataloader
from ..common.models.iou_aware import varifocal
from ..common.models.ms_detr import model
from ..common.optim import optimizer
from ..common.schedules import step_12ep as lr_multiplier
from ..common.train import train

model = varifocal(model)
train.output_dir = "output/ms_detr_varifocal_r50_300q_12ep"
