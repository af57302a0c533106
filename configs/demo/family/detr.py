"""Small: DETR."""

from ...common.data.demo import dataloader
from ...common.demo import lr_multiplier, train
from ...common.demo_family import dense_optimizer as optimizer
from ...common.demo_family import small_dense
from ...common.models.deformable_detr import model
from ...common.models.dense import detr

model = small_dense(model, detr)
train.output_dir = "output/demo/family/detr"
