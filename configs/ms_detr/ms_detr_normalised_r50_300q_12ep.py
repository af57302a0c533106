"""MS-DETR on Deformable DETR with supervisions that weigh alike, not the published weights.

One-to-many losses are means over the pairs that were assigned; see docs/evidence.md.
"""

from ms_detr.recipes import coco, deformable_detr, normalised_ms_detr, three_rates

model = normalised_ms_detr(deformable_detr())
dataloader = coco()
train, optimizer, lr_multiplier = three_rates()
