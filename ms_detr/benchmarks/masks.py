"""Time and memory of supervising masks, against masks of all queries at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from ..modeling.masks import DotProductMasks
from ..structures import Assignment, PredictionSet, QueryMasks, Targets
from ..supervision import DiceLoss, HungarianAssigner, MaskCost, MaskLoss, MaskPoints
from .limits import measure_peak, timed

LAYERS, WIDTH = 6, 256


class AllMasks(QueryMasks):
    """Masks of all queries, made beforehand: the formulation that bounds nothing."""

    def __init__(self, masks: DotProductMasks):
        self.num_layers = masks.num_layers
        self.maps = torch.einsum("lbqc,bchw->lbqhw", masks.states, masks.pixels)

    def logits(self, image: int, layer: Tensor, query: Tensor) -> Tensor:
        return self.maps[layer, image, query]

    def logits_at(self, points: Tensor) -> Iterator[Tensor]:
        raise NotImplementedError


def measure_masks(
    device: str = "cpu",
    queries: int = 900,
    objects: int = 100,
    size: int = 1024,
    per_object: int = 6,
    threads: int | None = None,
) -> list[dict[str, Any]]:
    """One image: costs of all pairs, then losses with gradients of the assigned ones.

    Args:
        per_object: queries that learn an object one-to-many.

    Returns:
        A dict a step: how many masks it compares, seconds, and the peak of memory in megabytes
        above its inputs.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    torch.manual_seed(0)
    states = torch.randn(LAYERS, 1, queries, WIDTH, device=device, requires_grad=True)
    pixels = torch.randn(WIDTH, size // 4, size // 4, device=device, requires_grad=True)
    masks = DotProductMasks(torch.nn.Identity(), states, pixels[None])
    boxes = torch.rand(LAYERS, 1, queries, 4, device=device) * 0.5 + 0.1
    image = {
        "labels": torch.zeros(objects, dtype=torch.int64, device=device),
        "boxes": boxes[0, 0, :objects],
        "masks": torch.rand(objects, size, size, device=device) < 0.1,
    }
    targets = Targets.from_list([image])
    predictions = PredictionSet(torch.randn(LAYERS, 1, queries, 1, device=device), boxes)

    def costs() -> None:
        given = _with(predictions, masks)
        with torch.no_grad():
            HungarianAssigner(further_cost=MaskCost()).host_costs(given, targets)

    def losses(slots: int, of: Callable[[], QueryMasks]) -> Callable[[], None]:
        query = torch.arange(objects * slots, device=device).view(1, 1, objects, slots)
        query = (query % queries).expand(LAYERS, -1, -1, -1)
        assignment = Assignment(query, torch.ones_like(query, dtype=torch.bool), targets.labels)

        def run() -> None:
            given = _with(predictions, of())
            losses = [MaskLoss(5.0), DiceLoss(5.0)]
            MaskPoints().losses(given, targets, assignment, losses).sum().backward()
            states.grad = pixels.grad = None

        return run

    pairs = LAYERS * objects
    steps = {
        "costs of matching": (LAYERS * queries, costs),
        "losses, one-to-one": (pairs, losses(1, lambda: masks)),
        "losses, one-to-one, all masks first": (
            LAYERS * queries,
            losses(1, lambda: AllMasks(masks)),
        ),
        "losses, one-to-many": (pairs * per_object, losses(per_object, lambda: masks)),
    }
    rows = []
    for what, (count, run) in steps.items():
        peak = measure_peak(run, device)  # which warms up
        rows.append({"what": what, "masks": count, "seconds": timed(run, device), "peak MB": peak})
    return rows


def _with(predictions: PredictionSet, masks: QueryMasks) -> PredictionSet:
    return PredictionSet(predictions.logits, predictions.boxes, masks=masks)
