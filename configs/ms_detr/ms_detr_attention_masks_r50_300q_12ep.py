"""MS-DETR with DETR's mask head at stride 16, as its published code holds it without running.

Mr. DETR, its descendant, runs such a head: masks of the last layer, matched on class and box;
published there for another supervision: 36.0 mask AP (12 epochs, COCO val2017).
"""

from ms_detr.recipes import coco, deformable_detr, mask_attention, ms_detr, three_rates, with_masks

model = with_masks(ms_detr(deformable_detr()), mask_attention(), mask_cost=False)
dataloader = coco(masks=True)
train, optimizer, lr_multiplier = three_rates()
model.criterion.terms.o2o.losses.dice.weight = 2.0
