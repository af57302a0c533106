"""MS-DETR on blood cells, implementation (d), see docs/methods.md; published weights."""

from functools import partial

from ms_detr.recipes import after_self_attention, ms_detr
from ms_detr.recipes.micrographs import bccd

model, dataloader, train, optimizer, lr_multiplier = bccd(
    "two_stage", "ms_detr_d", partial(ms_detr, implementation=after_self_attention)
)
