"""MS-DETR with contrastive denoising on Deformable DETR++, ResNet-50, 300 queries, 12 epochs.

No figure is published for this composition.
"""

from ms_detr.recipes import (
    coco,
    contrastive_denoising,
    deformable_detr,
    ms_detr,
    plus_plus,
    three_rates,
)

model = ms_detr(contrastive_denoising(plus_plus(deformable_detr())))
dataloader = coco()
train, optimizer, lr_multiplier = three_rates()
model.postprocess.top_k = 300
