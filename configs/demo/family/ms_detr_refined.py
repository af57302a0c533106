"""Small: MS-DETR on Deformable DETR with learned queries and box refinement."""

from ...common.data.demo import dataloader
from ...common.demo import lr_multiplier, optimizer, resize, soften, train
from ...common.models.ms_detr import model
from ...common.models.one_stage import one_stage

model = one_stage(resize(soften(model)), box_refinement=True)
train.output_dir = "output/demo/family/ms_detr_refined"
