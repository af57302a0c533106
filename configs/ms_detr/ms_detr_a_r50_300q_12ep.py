"""MS-DETR, implementation (a): both supervisions at the layer's output, self-attention first.

Released by its authors, without a result.
"""

from ms_detr.recipes import at_the_output_self_first, coco, deformable_detr, ms_detr, three_rates

model = ms_detr(deformable_detr(), at_the_output_self_first)
dataloader = coco()
train, optimizer, lr_multiplier = three_rates()
