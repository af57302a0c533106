"""DN-DETR on Deformable DETR++, ResNet-50, 300 queries, 12 epochs.

Two-stage, where DN-DETR has learned anchors: no figure is published for this composition.
"""

from ms_detr.recipes import coco, deformable_detr, denoising, plus_plus, three_rates

model = denoising(plus_plus(deformable_detr()))
dataloader = coco()
train, optimizer, lr_multiplier = three_rates()
model.postprocess.top_k = 300
