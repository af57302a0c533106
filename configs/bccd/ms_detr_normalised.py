"""MS-DETR on blood cells with supervisions that weigh alike, see docs/evidence.md."""

from ms_detr.recipes import normalised_ms_detr
from ms_detr.recipes.micrographs import bccd

model, dataloader, train, optimizer, lr_multiplier = bccd(
    "two_stage", "ms_detr_normalised", normalised_ms_detr
)
