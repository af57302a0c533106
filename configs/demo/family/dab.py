"""Small: DAB-DETR."""

from ...common.data.demo import dataloader
from ...common.demo import lr_multiplier, train
from ...common.demo_family import dense_optimizer as optimizer
from ...common.demo_family import small_dense
from ...common.models.dab import dab
from ...common.models.deformable_detr import model

model = small_dense(model, dab)
train.output_dir = "output/demo/family/dab"
