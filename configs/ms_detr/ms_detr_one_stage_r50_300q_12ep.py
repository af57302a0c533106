"""MS-DETR with learned queries and no box refinement, ResNet-50, 300 queries, 12 epochs."""

from ms_detr.recipes import coco, deformable_detr, ms_detr, one_stage, three_rates

model = ms_detr(one_stage(deformable_detr(), box_refinement=False))
dataloader = coco()
train, optimizer, lr_multiplier = three_rates(reference_points=0.1)
