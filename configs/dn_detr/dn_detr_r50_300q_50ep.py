"""DN-DETR on DAB-DETR, its first home, ResNet-50, 300 queries, 50 epochs.

Published by its authors: 44.1 box AP on COCO val2017.
"""

from ms_detr.recipes import coco, dab, deformable_detr, denoising, two_rates

model = dab(deformable_detr())
model.query_initializer.fixed_centers = False
model.query_initializer.learned_content = True
model = denoising(model)
dataloader = coco()
train, optimizer, lr_multiplier = two_rates(epochs=50, drop=40)
