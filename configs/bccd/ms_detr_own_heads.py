"""An ablation on blood cells: one-to-many supervision has class and box heads of its own."""

from functools import partial

from ms_detr.recipes import after_cross_attention_with_own_heads, ms_detr
from ms_detr.recipes.micrographs import bccd

model, dataloader, train, optimizer, lr_multiplier = bccd(
    "two_stage",
    "ms_detr_own_heads",
    partial(ms_detr, implementation=after_cross_attention_with_own_heads),
)
