"""Small: MS-DETR on Deformable DETR++ with Align-DETR's IA-BCE."""

from ms_detr.recipes.demo import demo

model, dataloader, train, optimizer, lr_multiplier = demo("ia_bce", mixed=True)
