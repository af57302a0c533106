"""Small: MS-DETR on Deformable DETR with learned queries and no box refinement."""

from ...common.data.demo import dataloader
from ...common.demo import lr_multiplier, optimizer, resize, soften, train
from ...common.models.ms_detr import model
from ...common.models.one_stage import one_stage

model = one_stage(resize(soften(model)), box_refinement=False)
train.output_dir = "output/demo/family/ms_detr_one_stage"
