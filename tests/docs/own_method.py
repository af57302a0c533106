"""Train two steps of a config with the ms_detr that Python finds; a subprocess of the tests.

Arguments: the config, then overrides. Prints the assigner of the one-to-many term, and losses.
"""

import sys

import torch
from detectron2.config import instantiate
from detectron2.structures import Boxes, Instances

from ms_detr.config import load


def image_with(height: int, width: int, labels: list[int]) -> dict:
    """One of Detectron2's input dicts."""
    instances = Instances((height, width))
    boxes = [[4.0 + 9 * i, 6.0, 25.0 + 9 * i, 40.0] for i in range(len(labels))]
    instances.gt_boxes = Boxes(torch.tensor(boxes).view(-1, 4))
    instances.gt_classes = torch.tensor(labels, dtype=torch.int64)
    image = torch.randint(0, 256, (3, height, width), dtype=torch.uint8)
    return {"image": image, "instances": instances}


config, *overrides = sys.argv[1:]
torch.manual_seed(0)
model = instantiate(load(config, overrides).model)
batch = [image_with(48, 96, [1, 0, 3]), image_with(64, 40, [])]
optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
term = model.criterion.terms["o2m"]
print(type(term.assigner).__module__, type(term.assigner).__qualname__)
for _ in range(2):
    losses = model(batch)
    optimizer.zero_grad()
    sum(losses.values()).backward()
    optimizer.step()
    print(*(losses[f"o2m/loss_{name}/0"].item() for name in ("class", "bbox", "giou")))
