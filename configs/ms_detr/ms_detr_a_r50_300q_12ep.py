"""MS-DETR, implementation (a): both supervisions at the layer's output, self-attention first.

Released by its authors, without a result.
"""

from ..common.data.coco import dataloader
from ..common.models.implementations import at_the_output_self_first
from ..common.models.ms_detr import model
from ..common.optim import optimizer
from ..common.schedules import step_12ep as lr_multiplier
from ..common.train import train

model = at_the_output_self_first(model)
train.output_dir = "output/ms_detr_a_r50_300q_12ep"
