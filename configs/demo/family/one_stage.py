"""Small: Deformable DETR with learned queries and no box refinement."""

from ...common.data.demo import dataloader
from ...common.demo import lr_multiplier, optimizer, resize, train
from ...common.models.deformable_detr import model
from ...common.models.one_stage import one_stage

model = one_stage(resize(model), box_refinement=False)
train.output_dir = "output/demo/family/one_stage"
