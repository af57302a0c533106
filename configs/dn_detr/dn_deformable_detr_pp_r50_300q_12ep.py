"""DN-DETR on Deformable DETR++, ResNet-50, 300 queries, 12 epochs.

Two-stage, where DN-DETR has learned anchors: no figure is published for this composition.
"""

from ..common.data.coco import dataloader
from ..common.models.deformable_detr import model
from ..common.models.groups import denoising
from ..common.models.plus_plus import plus_plus
from ..common.optim import optimizer
from ..common.schedules import step_12ep as lr_multiplier
from ..common.train import train

model = denoising(plus_plus(model))
model.postprocess.top_k = 300
train.output_dir = "output/dn_deformable_detr_pp_r50_300q_12ep"
