"""MS-DETR at the demo's size; what `make demo` trains.

Two weights differ from the paper's, which are made for 90,000 iterations from a pretrained
backbone: one-to-one classification 2 instead of 1, one-to-many supervision at half weight.
"""

from ms_detr.recipes.demo import demo

model, dataloader, train, optimizer, lr_multiplier = demo("plus_plus", "ms_detr", mixed=True)
