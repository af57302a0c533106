"""Small: MS-DETR on Deformable DETR++ with VariFocal loss."""

from ms_detr.recipes.demo import demo

model, dataloader, train, optimizer, lr_multiplier = demo("varifocal", mixed=True)
