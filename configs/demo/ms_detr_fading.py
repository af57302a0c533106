"""MS-DETR at the demo's size with one-to-many supervision that fades, see docs/evidence.md."""

from ms_detr.recipes import fading_ms_detr
from ms_detr.recipes.demo import demo

model, dataloader, train, optimizer, lr_multiplier = demo("plus_plus", "ms_detr_fading")
fading_ms_detr(model)
