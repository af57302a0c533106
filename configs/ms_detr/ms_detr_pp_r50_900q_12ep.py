"""MS-DETR on Deformable DETR++, ResNet-50, 900 queries, 12 epochs.

Published by its authors: 50.0 box AP on COCO val2017, with the index merge that its authors used
for this result: model.criterion.terms.o2m.assigner is MergedTopK.
"""

from ms_detr.supervision import MergedTopK

from ..common.data.coco import dataloader
from ..common.models.ms_detr import model
from ..common.models.plus_plus import plus_plus
from ..common.optim import optimizer
from ..common.schedules import step_12ep as lr_multiplier
from ..common.train import train

model = plus_plus(model)
model.num_queries = 900
model.postprocess.top_k = 300
model.criterion.terms.o2m.assigner._target_ = MergedTopK
train.output_dir = "output/ms_detr_pp_r50_900q_12ep"
