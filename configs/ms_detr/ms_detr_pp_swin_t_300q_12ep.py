"""MS-DETR on Deformable DETR++, Swin-T, 300 queries, 12 epochs."""

from ..common.data.coco import dataloader
from ..common.models.backbones import swin_tiny
from ..common.models.ms_detr import model
from ..common.models.plus_plus import plus_plus
from ..common.optim import optimizer
from ..common.schedules import step_12ep as lr_multiplier
from ..common.train import train

model = swin_tiny(plus_plus(model), train)
train.output_dir = "output/ms_detr_pp_swin_t_300q_12ep"
