"""MS-DETR on blood cells with one-to-many supervision that fades, see docs/evidence.md."""

from ms_detr.recipes import fading_ms_detr
from ms_detr.recipes.micrographs import bccd

model, dataloader, train, optimizer, lr_multiplier = bccd(
    "two_stage", "ms_detr_fading", fading_ms_detr
)
