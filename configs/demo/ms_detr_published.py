"""MS-DETR at the demo's size with the published weights of its losses.

In minutes of training from scratch they leave many duplicates; ``ms_detr.py`` has what works here.
"""

from ms_detr.recipes.demo import demo

model, dataloader, train, optimizer, lr_multiplier = demo(
    "plus_plus", "ms_detr_published", mixed=True
)
model.criterion.terms.o2o.losses["class"].weight = 1.0
model.criterion.terms.o2m.weight = 1.0
