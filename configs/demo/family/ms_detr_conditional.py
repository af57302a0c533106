"""Small: MS-DETR on Conditional DETR."""

from ...common.data.demo import dataloader
from ...common.demo import lr_multiplier, soften, train
from ...common.demo_family import dense_optimizer as optimizer
from ...common.demo_family import small_dense
from ...common.models.conditional import conditional
from ...common.models.ms_detr import model

model = small_dense(soften(model), conditional)
train.output_dir = "output/demo/family/ms_detr_conditional"
