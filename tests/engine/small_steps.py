"""Batches and trainers of the stand-in detector, for one process or for each of two."""

import torch
from detectron2.structures import Boxes, Instances
from detectron2.utils import comm
from torch import nn

from ms_detr.engine import Trainer
from ms_detr.engine.failures import Failures

from .standin import CountingDetector, Detector


def batch(count=4):
    """A batch whose objects are unevenly spread: 0, 1, 2 and 3 in its images."""
    generator = torch.Generator().manual_seed(0)
    inputs = []
    for number in range(count):
        instances = Instances((32, 40))
        corners = torch.rand(number, 2, generator=generator) * 16
        instances.gt_boxes = Boxes(torch.cat([corners, corners + 8], 1))
        instances.gt_classes = torch.arange(number) % 2
        image = torch.randint(0, 255, (3, 32, 40), generator=generator, dtype=torch.uint8)
        inputs.append(
            {
                "image": image,
                "instances": instances,
                "image_id": number,
                "file_name": f"{number}.png",
                "height": 32,
                "width": 40,
            }
        )
    return inputs


def detector(counting=False, **options):
    torch.manual_seed(0)
    return (CountingDetector if counting else Detector)(dropout=0.0, **options)


class Root(nn.Module):
    """Its losses are finite. The gradient is infinite for image 3, or its square for all of them.

    Attributes:
        draws: random numbers of all passes.
    """

    def __init__(self, slope=1.0):
        super().__init__()
        self.weight, self.other = (nn.Parameter(torch.tensor(2.0)) for _ in range(2))
        self.register_buffer("passes", torch.zeros(()))
        self.slope, self.draws = slope, []

    def forward(self, inputs):
        self.passes += 1
        self.draws.append(torch.rand(()).item())
        bad = self.slope == 1 and any(x["image_id"] == 3 for x in inputs)
        root = (self.weight - self.weight.detach()).sqrt() if bad else self.weight
        return {"loss": (root + self.other) * self.slope}


def trainer(model, inputs, **options):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return Trainer(model, [inputs] * 3, optimizer, clip_grad_norm=0.5, log_period=1, **options)


def with_a_poisoned_batch(model, part=list, **options):
    """Train on three batches, of which the second is skipped: it has image 9 at its end."""
    bad = [*batch(3), {**batch(4)[3], "image_id": 9}]
    run = trainer(model, part(batch()), failures=Failures(limit=1), **options)
    run.loader = [part(batch()), part(bad), part(batch())]
    run.train(0, 3)
    return run


def part(inputs):
    """What the sampler gives this process."""
    size = len(inputs) // comm.get_world_size()
    return inputs[comm.get_rank() * size :][:size]


def detections(inputs):
    """Made-up detections, different in every image."""
    outputs = []
    for x in inputs:
        generator = torch.Generator().manual_seed(x["image_id"])
        corners = torch.rand(20, 2, generator=generator) * 16
        instances = Instances((32, 40))
        instances.pred_boxes = Boxes(torch.cat([corners, corners + 12], 1))
        instances.scores = torch.rand(20, generator=generator)
        instances.pred_classes = torch.arange(20) % 2
        outputs.append({"instances": instances})
    return outputs
