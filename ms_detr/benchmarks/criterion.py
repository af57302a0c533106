"""How fast the criterion is, against the usual loop over layers and images."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from detectron2.config import instantiate
from torch import Tensor

from ..config import load
from ..structures import Predictions, PredictionSet, Targets
from ..supervision import Criterion, PaperTopK
from .limits import timed
from .pairs import choose_machine
from .plain_criterion import PlainCriterion

CONFIG = "ms_detr/ms_detr_r50_300q_12ep.py"
RULES = ("released", "paper")
LAYERS, CLASSES = 6, 80


def compare_criterion(
    device: str = "cpu",
    batches: Sequence[int] = (2, 8),
    queries: Sequence[int] = (300, 900),
    objects: Sequence[int] = (7, 30),
    tokens: int | None = None,
    rounds: int = 9,
    threads: int | None = None,
) -> list[dict[str, Any]]:
    """Time forward and backward of all terms against the loop, turn by turn.

    Args:
        tokens: of the encoder term; None takes as many as there are queries.

    Returns:
        A dict a case: medians in milliseconds, the median of the rounds' ratios, the largest
        relative difference of a loss, and on CUDA what `count_waits` says of one call.
    """
    choose_machine(device, threads)
    return [
        _row(device, rule, batch, count, number, tokens or count, rounds)
        for rule in RULES
        for batch in batches
        for count in queries
        for number in objects
    ]


def build_criterion(rule: str) -> Criterion:
    """MS-DETR's criterion as the config has it; without quota, whose choice is random."""
    cfg = load(CONFIG).model.criterion
    assigner = cfg.terms.o2m.assigner
    if rule == "paper":
        del assigner["quota"]
        assigner["_target_"] = PaperTopK
    else:
        assigner["quota"] = 1.0
    return instantiate(cfg)


def make_scene(
    batch: int, queries: int, objects: int, tokens: int, device: str = "cpu"
) -> tuple[Callable[[], Predictions], Targets]:
    """Objects, and a function that predicts boxes around them, with gradients, anew each time."""
    generator = torch.Generator().manual_seed(0)

    def rand(*size: int) -> Tensor:
        return torch.rand(size, generator=generator)

    images = []
    for _ in range(batch):
        boxes = torch.cat((rand(objects, 2), rand(objects, 2) * 0.3 + 0.05), -1)
        labels = torch.randint(CLASSES, (objects,), generator=generator)
        images.append({"labels": labels, "boxes": boxes})
    targets = Targets.from_list(images).to(torch.device(device))
    raw: dict[str, tuple[Tensor, Tensor]] = {}
    sizes = {"decoder": queries, "decoder.cross_attention": queries, "encoder": tokens}
    for source, count in sizes.items():
        layers = 1 if source == "encoder" else LAYERS
        chosen = torch.randint(objects, (layers, batch, count), generator=generator)
        centers = torch.stack([image["boxes"] for image in images])
        near = centers.expand(layers, -1, -1, -1).gather(2, chosen[..., None].expand(-1, -1, -1, 4))
        noise = torch.randn(near.shape, generator=generator)
        boxes = (near * (1 + 0.2 * noise)).clamp(0.01, 0.99).logit()
        logits = torch.randn(layers, batch, count, CLASSES, generator=generator) - 3
        raw[source] = (logits.to(device).requires_grad_(), boxes.to(device).requires_grad_())
    anchors = rand(batch, tokens, 4).to(device)

    def predict() -> Predictions:
        return Predictions(
            {
                source: PredictionSet(
                    logits,
                    boxes.sigmoid(),
                    anchors=anchors if source == "encoder" else None,
                    layered=source != "encoder",
                )
                for source, (logits, boxes) in raw.items()
            }
        )

    return predict, targets


def _row(
    device: str, rule: str, batch: int, queries: int, objects: int, tokens: int, rounds: int
) -> dict[str, Any]:
    predict, targets = make_scene(batch, queries, objects, tokens, device)
    criterion = build_criterion(rule)
    functions = (PlainCriterion(criterion.terms), criterion)
    with torch.no_grad():
        losses = [function(predict(), targets) for function in functions]
    difference = max(
        abs(float(losses[0][name]) - float(losses[1][name]))
        / max(abs(float(losses[0][name])), 1e-6)
        for name in losses[0].keys() | losses[1].keys()
    )

    def step(function: Callable) -> float:
        predictions = predict()

        def run() -> None:
            torch.stack(list(function(predictions, targets).values())).sum().backward()

        return timed(run, device)

    times = [[step(function) for function in functions] for _ in range(rounds + 1)][1:]
    row = {
        "rule": rule,
        "batch": batch,
        "queries": queries,
        "objects": objects,
        "loop ms": statistics.median(plain for plain, _ in times) * 1e3,
        "ms": statistics.median(ours for _, ours in times) * 1e3,
        "ratio": statistics.median(plain / ours for plain, ours in times),
        "largest difference": difference,
    }
    if device == "cuda":
        row |= count_waits(event_names(lambda: criterion(predict(), targets)))
    return row


def event_names(run: Callable[[], object]) -> list[str]:
    """What the profiler sees in a call, on the host and on the GPU, where there is one."""
    with torch.profiler.profile(activities=torch.profiler.supported_activities()) as profile:
        run()
    return [event.name for event in profile.events()]


def count_waits(names: Iterable[str]) -> dict[str, int]:
    """How often the host waited for the GPU, and how often it was handed something."""
    counts = Counter("Memcpy DtoH" if name.startswith("Memcpy DtoH") else name for name in names)
    # Not cudaDeviceSynchronize: the profiler itself calls it at its end.
    waits = ("cudaStreamSynchronize", "cudaEventSynchronize", "cudaMemcpy")
    return {
        "host waits": sum(counts[name] for name in waits),
        "copies to host": counts["Memcpy DtoH"],
    }
