"""Small: MS-DETR on Deformable DETR++ with DN-DETR's denoising."""

from ms_detr.recipes.demo import demo

model, dataloader, train, optimizer, lr_multiplier = demo("dn", mixed=True)
