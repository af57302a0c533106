"""MS-DETR on SAM-DETR with SMCA, three feature levels, ResNet-50, 300 queries, 12 epochs."""

from ms_detr.recipes import (
    coco,
    deformable_detr,
    gaussian_modulation,
    ms_detr,
    sam_detr_multi_scale,
    two_rates,
)

model = ms_detr(gaussian_modulation(sam_detr_multi_scale(deformable_detr())))
dataloader = coco()
train, optimizer, lr_multiplier = two_rates(epochs=12, drop=10)
