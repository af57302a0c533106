"""MS-DETR on blood cells with the demo's weights of its losses, which were chosen by hand there.

One-to-one classification weighs what it does in the baseline, one-to-many supervision half.
"""

from ms_detr.recipes import ms_detr
from ms_detr.recipes.micrographs import bccd

model, dataloader, train, optimizer, lr_multiplier = bccd("two_stage", "ms_detr_balanced", ms_detr)
model.criterion.terms.o2o.losses["class"].weight = 2.0
model.criterion.terms.o2m.weight = 0.5
