"""Gradients of one training step of small detectors, by one process or one of two.

Random draws follow from the object or are the same for all, so that they don't hang on how images
are put together. Arguments: rank, file to meet in, file to write, as JSON a list of cases
[method, accumulate, parts of the model that are recomputed].
"""

import dataclasses
import json
import sys
from pathlib import Path

import torch

from ms_detr.engine import Trainer
from ms_detr.engine.distribution import distribute
from ms_detr.engine.memory import recompute
from ms_detr.supervision import masks
from ms_detr.variants import contrastive_denoising, denoising

from ..modeling.support import make_input, make_model
from ..processes import gloo

COUNTS = [3, 1, 0, 2]  # objects of the whole batch's images
METHODS = {  # a config and overrides of it
    "ms_detr": ("demo/ms_detr",),
    "dino": ("demo/family/ms_detr_dino",),
    "group": ("demo/family/ms_detr_group",),
    "hybrid": ("demo/family/ms_detr_hybrid",),
    "dn": ("demo/family/dn",),
    "masks": ("demo/ms_detr_masks",),
    "normalised": ("demo/ms_detr_normalised",),
    "fading": ("demo/ms_detr_fading",),
    # Zeros: how many negatives there are beside the positive queries follows from all images.
    "co": (
        "demo/family/ms_detr_co_atss",
        "model.groups.atss.padding._target_=ms_detr.variants.co_detr.ZeroPadding",
    ),
}
OVERRIDES = (
    "model.dropout=0.0",
    "model.encoder.num_layers=1",
    "model.decoder.num_layers=2",
    "model.backbone.norm=FrozenBN",  # statistics of a batch are those of its parts for no method
)


def drawn(boxes):
    """What looks like noise from -1 to 1 and follows from a box alone."""
    return (1000 * boxes).sin()


def tame_chance(put=setattr):
    """Replace every draw of a step by one that images bring with them."""
    put(denoising, "signed_noise", drawn)
    put(contrastive_denoising, "signed_noise", drawn)
    put(denoising.DenoisingGroup, "flip", lambda self, labels: labels)
    put(masks, "torch", FixedDraws())
    put(masks, "uncertain_points", lambda logits, count, *_: places((len(logits), count, 2)))


class FixedDraws:
    """Torch, but that all images get the same random points."""

    def __getattr__(self, name):
        return getattr(torch, name)

    def rand(self, *shape, **_):
        return places(shape)


def places(shape):
    """Points in the unit square, (..., P, 2)."""
    numbers = torch.arange(shape[-2] * shape[-1], dtype=torch.float64) * 0.618 % 1
    return numbers.view(shape[-2:]).expand(*shape)


def images(first, counts):
    """Images of one size, of which each number is drawn once and for all."""
    return [
        make_input(
            64, 64, labels=[(first + index + k) % 3 for k in range(count)], seed=first + index
        )
        for index, count in enumerate(counts)
    ]


class InDouble(torch.nn.Module):
    """A detector whose boxes are of float64, too: Detectron2's are of float32."""

    def __init__(self, detector):
        super().__init__()
        self.detector = detector.double()

    def forward(self, batch):
        detector = self.detector
        images, padding_mask = detector.preprocess(batch)
        targets = detector.targets(batch, (images.shape[-2], images.shape[-1]))
        targets = dataclasses.replace(targets, boxes=targets.boxes.double())
        predictions = detector.forward_tensors(images, padding_mask, targets)
        return detector.criterion(predictions, targets)


def gradients(method, first, counts, accumulate, recomputed=()):
    """{name: gradient} and {name: loss} of a step."""
    torch.manual_seed(0)
    config, *overrides = METHODS[method]
    model = InDouble(make_model(*OVERRIDES, *overrides, config=f"configs/{config}.py"))
    recompute(model.detector, dict.fromkeys(recomputed, True))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    batch = images(first, counts)
    trainer = Trainer(distribute(model), [batch], optimizer, accumulate=accumulate, log_period=1)
    trainer.train(0, 1)
    losses = {k: h.latest() for k, h in trainer.storage.histories().items() if "loss" in k}
    return {n: p.grad for n, p in model.named_parameters() if p.grad is not None}, losses


def main():
    rank, meeting, out, cases = sys.argv[1:]
    made = []
    with gloo(meeting).joined(int(rank), int(rank)):
        tame_chance()
        for method, accumulate, recomputed in json.loads(cases):
            half = len(COUNTS) // 2
            first = int(rank) * half
            counts = COUNTS[first : first + half]
            made.append(gradients(method, first, counts, accumulate, recomputed))
    if rank == "0":
        torch.save(made, Path(out))


if __name__ == "__main__":
    main()
