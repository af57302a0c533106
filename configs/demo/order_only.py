"""An ablation, not the baseline: MS-DETR's order of sublayers without one-to-many supervision."""

from ms_detr.recipes.demo import demo

model, dataloader, train, optimizer, lr_multiplier = demo("plus_plus", "order_only", mixed=True)
model.criterion.terms.o2m = None
