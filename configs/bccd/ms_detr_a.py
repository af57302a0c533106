"""MS-DETR on blood cells, implementation (a), see docs/methods.md; published weights."""

from functools import partial

from ms_detr.recipes import at_the_output_self_first, ms_detr
from ms_detr.recipes.micrographs import bccd

model, dataloader, train, optimizer, lr_multiplier = bccd(
    "two_stage", "ms_detr_a", partial(ms_detr, implementation=at_the_output_self_first)
)
