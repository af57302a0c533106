"""MS-DETR at the demo's size; what `make demo` trains.

Two weights differ from the paper's, which are made for 90,000 iterations from a pretrained
backbone: one-to-one classification 2 instead of 1, one-to-many supervision at half weight.
"""

from ..common.data.demo import dataloader
from ..common.demo import lr_multiplier, optimizer, shrink, soften, train
from ..common.models.ms_detr import model

model = soften(shrink(model))
train.output_dir = "output/demo/ms_detr"
