"""MS-DETR, implementation (b): both supervisions at the layer's output, cross-attention first."""

from ms_detr.recipes import at_the_output, coco, deformable_detr, ms_detr, three_rates

model = ms_detr(deformable_detr(), at_the_output)
dataloader = coco()
train, optimizer, lr_multiplier = three_rates()
