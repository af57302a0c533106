"""MS-DETR at the demo's size with the published weights of its losses.

In minutes of training from scratch they leave many duplicates; ``ms_detr.py`` has what works here.
"""

from ..common.data.demo import dataloader
from ..common.demo import lr_multiplier, optimizer, shrink, train
from ..common.models.ms_detr import model

model = shrink(model)
train.output_dir = "output/demo/ms_detr_published"
