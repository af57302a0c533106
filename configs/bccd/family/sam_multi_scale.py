"""Blood cells: SAM-DETR on several scales."""

from ms_detr.recipes.micrographs import bccd

model, dataloader, train, optimizer, lr_multiplier = bccd(
    "sam_multi_scale", "family/sam_multi_scale"
)
