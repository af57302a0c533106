"""MS-DETR at the demo's size with supervisions that weigh alike, see docs/evidence.md."""

from ms_detr.recipes import normalised_ms_detr
from ms_detr.recipes.demo import demo

model, dataloader, train, optimizer, lr_multiplier = demo("plus_plus", "ms_detr_normalised")
normalised_ms_detr(model)
