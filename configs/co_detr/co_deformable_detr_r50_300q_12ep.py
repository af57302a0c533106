"""Co-DETR (K = 2: Faster R-CNN, ATSS) on the baseline, ResNet-50, 300 queries, 12 epochs.

No figure is published for this composition; the paper's plain Deformable DETR has one stage.
"""

from ms_detr.recipes import co_detr, coco, deformable_detr, three_rates

model = co_detr(deformable_detr())
dataloader = coco()
train, optimizer, lr_multiplier = three_rates()
