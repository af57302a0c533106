"""Co-DETR (K = 2: Faster R-CNN, ATSS) on Deformable DETR++, ResNet-50, 300 queries, 36 epochs.

No figure is published for this composition.
"""

from ms_detr.recipes import co_detr, coco, deformable_detr, plus_plus, three_rates

model = co_detr(plus_plus(deformable_detr()))
model.neck.bias = False
model.groups.rcnn.encoding.scalar_embedding = True
model.groups.atss.encoding.scalar_embedding = True
dataloader = coco()
train, optimizer, lr_multiplier = three_rates(epochs=36, drop=30)
