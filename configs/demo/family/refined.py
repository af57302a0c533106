"""Small: Deformable DETR with learned queries and box refinement."""

from ...common.data.demo import dataloader
from ...common.demo import lr_multiplier, optimizer, resize, train
from ...common.models.deformable_detr import model
from ...common.models.one_stage import one_stage

model = one_stage(resize(model), box_refinement=True)
train.output_dir = "output/demo/family/refined"
