"""An exported file against the model that it was made of, on the same images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import ConfigError
from ..meta_arch import OUTPUT, GeneralizedDETR
from ..modeling import Detections
from ..structures import PredictionSet
from .formats import Run
from .interface import ORDERS, Form
from .writing import plain_copy


@dataclass(frozen=True)
class Difference:
    """How much a file and PyTorch differ on one image.

    Attributes:
        objects: detections that were compared; those that tie with the last one are not, of which
            either may have others.
        missing: how many of them the file hasn't.
        scores: largest difference.
        boxes: largest difference of a coordinate, in fractions of the image.
        masks: largest part of a mask's pixels that only one of both has.
    """

    objects: int
    missing: int
    scores: float
    boxes: float
    masks: float

    def within(self, tolerance: float) -> bool:
        """Whether nothing is missing and no difference is larger."""
        differences = self.scores, self.boxes, self.masks
        return self.missing == 0 and all(x <= tolerance for x in differences)  # NaN never is

    @classmethod
    def worst(cls, several: Sequence[Difference]) -> Difference:
        """Of several images: how many objects together, and the largest differences."""
        columns = {x.name: [getattr(one, x.name) for one in several] for x in fields(cls)}
        counted = ("objects", "missing")
        return cls(**{k: sum(v) if k in counted else _largest(v) for k, v in columns.items()})


@dataclass(frozen=True)
class Found:
    """Detections of one image: boxes (n, 4) xyxy, scores and labels (n,), perhaps masks."""

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    masks: np.ndarray | None


def compare(
    model: GeneralizedDETR,
    run: Run,
    form: Form,
    batches: Sequence[Sequence[Mapping[str, Any]]],
    tolerance: float = 1e-3,
) -> list[Difference]:
    """Run a file and its model on batches of the mapper's inputs, padded to one size each.

    Args:
        tolerance: detections of a class that differ by less in their scores may be the same.

    Returns:
        The differences, image by image.
    """
    plain = plain_copy(model)
    found = []
    for batch in batches:
        made, expected = _of_file(plain, run, form, batch), _of_model(plain, form, batch)
        pairs = zip(made, expected, strict=True)
        found += [difference(*pair, tolerance) for pair in pairs]
    return found


def batches_of(
    inputs: Sequence[Mapping[str, Any]], form: Form, model: GeneralizedDETR
) -> list[list[Mapping[str, Any]]]:
    """Return inputs in batches, padded within them; the last repeats its last where all are full.

    Raises:
        ConfigError: an image is larger than the form's size.
    """
    for x in inputs:
        height, width = x["image"].shape[1:]
        if form.size and (height > form.size[0] or width > form.size[1]):
            raise ConfigError(
                f"an image of {width} x {height} pixels, as the model sees it, is larger than "
                f"{form.size[1]} x {form.size[0]}"
            )
    most = form.batch or (1 if model.usage is None else model.usage.batch_size)
    batches = [list(inputs[start : start + most]) for start in range(0, len(inputs), most)]
    if form.batch and batches:
        batches[-1] += batches[-1][-1:] * (form.batch - len(batches[-1]))
    return batches


def arrays(
    model: GeneralizedDETR, form: Form, batch: Sequence[Mapping[str, Any]]
) -> tuple[np.ndarray, np.ndarray]:
    """Return what a file takes, images and sizes, for some of the mapper's inputs."""
    images = [x["image"] for x in batch]
    sizes = np.array([image.shape[1:] for image in images], dtype=np.int64)
    largest = form.size or sizes.max(0)
    if form.preprocess:
        order = list(ORDERS[model.usage.mapper.image_format if model.usage else "RGB"])
        made = [image[order] for image in images]
    else:
        made = [(image - model.pixel_mean) / model.pixel_std for image in images]
    padded = np.zeros((len(made), 3, *largest), dtype=made[0].numpy().dtype)
    for row, image in zip(padded, made, strict=True):
        row[:, : image.shape[1], : image.shape[2]] = image
    return padded, sizes


def _of_file(
    model: GeneralizedDETR, run: Run, form: Form, batch: Sequence[Mapping[str, Any]]
) -> list[Found]:
    made = {name: torch.from_numpy(x) for name, x in run(*arrays(model, form, batch)).items()}
    if form.postprocess:
        boxes, scores, labels = (made[name] for name in ("boxes", "scores", "labels"))
        return _by_image(boxes, scores, labels, made.get("masks"))
    probability = model.decoder.class_heads[-1].probability
    logits, boxes = made["logits"][None], made["boxes"][None]
    best = model.postprocess.candidates(PredictionSet(logits, boxes, probability=probability))
    masks = made.get("masks")
    if masks is not None:
        masks = torch.stack([own[chosen] for own, chosen in zip(masks, best.queries, strict=True)])
    return _by_image(best.boxes, best.scores, best.labels, masks)


@torch.no_grad()
def _of_model(
    model: GeneralizedDETR, form: Form, batch: Sequence[Mapping[str, Any]]
) -> list[Found]:
    images, padding = model.preprocess(batch)
    if form.size:  # what pads changes, a little, what is found in the rest
        multiple = max(1, model.backbone.size_divisibility)
        height, width = (-(-side // multiple) * multiple for side in form.size)
        missing = (0, width - images.shape[3], 0, height - images.shape[2])
        images, padding = F.pad(images, missing), F.pad(padding, missing, value=True)
    predictions = model.forward_tensors(images, padding)[OUTPUT]
    best: Detections = model.postprocess.candidates(predictions)
    masks = None
    if form.masks and predictions.masks is not None:
        last = predictions.masks.num_layers - 1
        masks = torch.stack(
            [
                predictions.masks.logits(image, torch.full_like(chosen, last), chosen)
                for image, chosen in enumerate(best.queries)
            ]
        )
    return _by_image(best.boxes, best.scores, best.labels, masks)


def _by_image(boxes: Tensor, scores: Tensor, labels: Tensor, masks: Tensor | None) -> list[Found]:
    every = [None] * len(boxes) if masks is None else [x > 0 for x in masks.numpy()]
    rows = zip(boxes.numpy(), scores.numpy(), labels.numpy(), every, strict=True)
    return [Found(*row) for row in rows]


def difference(made: Found, expected: Found, tolerance: float) -> Difference:
    """Compare detections of one image; each expected one with the nearest of its class and score.

    Both are sorted by score, so that scores are compared place by place.
    """
    count = min(len(made.scores), len(expected.scores))
    if count == 0:
        return Difference(0, len(expected.scores), 0.0, 0.0, 0.0)
    scores = float(np.abs(made.scores[:count] - expected.scores[:count]).max())
    compared = np.flatnonzero(expected.scores > expected.scores[-1] + tolerance)
    missing, boxes, masks = abs(len(made.scores) - len(expected.scores)), [0.0], [0.0]
    for index in compared:
        near = np.abs(made.scores - expected.scores[index]) <= tolerance
        near &= made.labels == expected.labels[index]
        if not near.any():
            missing += 1
            continue
        apart = np.abs(made.boxes[near] - expected.boxes[index]).max(-1)
        boxes.append(float(apart.min()))
        if made.masks is not None and expected.masks is not None:
            mask = made.masks[np.flatnonzero(near)[apart.argmin()]]
            masks.append(float((mask != expected.masks[index]).mean()))
    return Difference(len(compared), missing, scores, _largest(boxes), _largest(masks))


def _largest(values: Sequence[float]) -> float:
    """The largest one, or NaN where there is any, which Python's ``max`` may pass over."""
    return float(np.max(values))
