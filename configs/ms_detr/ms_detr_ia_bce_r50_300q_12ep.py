"""MS-DETR whose one-to-one classification is Align-DETR's IA-BCE; one-to-many keeps focal loss."""

from ..common.data.coco import dataloader
from ..common.models.iou_aware import ia_bce
from ..common.models.ms_detr import model
from ..common.optim import optimizer
from ..common.schedules import step_12ep as lr_multiplier
from ..common.train import train

model = ia_bce(model)
train.output_dir = "output/ms_detr_ia_bce_r50_300q_12ep"
