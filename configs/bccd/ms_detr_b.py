"""MS-DETR on blood cells, implementation (b), see docs/methods.md; published weights."""

from functools import partial

from ms_detr.recipes import at_the_output, ms_detr
from ms_detr.recipes.micrographs import bccd

model, dataloader, train, optimizer, lr_multiplier = bccd(
    "two_stage", "ms_detr_b", partial(ms_detr, implementation=at_the_output)
)
