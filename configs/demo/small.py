"""MS-DETR at the demo's size for images of your own on a CPU, which are made smaller.

What `ms-detr train --data` takes where there is no GPU.
"""

from ms_detr.recipes.demo import on_own_images

model, dataloader, train, optimizer, lr_multiplier = on_own_images()
