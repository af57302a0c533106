"""An ablation, not the baseline: MS-DETR's order of sublayers without one-to-many supervision.

One-to-one classification weighs what it does in the baseline.
"""

from ms_detr.recipes import ms_detr
from ms_detr.recipes.micrographs import bccd

model, dataloader, train, optimizer, lr_multiplier = bccd("two_stage", "order_only", ms_detr)
model.criterion.terms.o2m = None
model.criterion.terms.o2o.losses["class"].weight = 2.0
