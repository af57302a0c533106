"""MS-DETR on Deformable DETR++, Swin-L, 900 queries, 12 epochs.

Index merge as with ResNet-50 (``ms_detr_pp_r50_900q_12ep.py``).
"""

from ms_detr.supervision import MergedTopK

from ..common.data.coco import dataloader
from ..common.models.backbones import swin_large
from ..common.models.ms_detr import model
from ..common.models.plus_plus import plus_plus
from ..common.optim import optimizer
from ..common.schedules import step_12ep as lr_multiplier
from ..common.train import train

model = swin_large(plus_plus(model), train)
model.num_queries = 900
model.postprocess.top_k = 300
model.criterion.terms.o2m.assigner._target_ = MergedTopK
train.output_dir = "output/ms_detr_pp_swin_l_900q_12ep"
