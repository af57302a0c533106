"""Random objects and detections with all that is awkward, as arrays and as COCO's files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from ms_detr.data import GroundTruth, read_truth
from ms_detr.evaluation.detections import Detections, ImageDetections

from .test_scoring import random_content, random_instances, register


def random_sample(
    folder: Path, seed: int, images: int, objects: int, most: int, masks: bool = False
) -> tuple[dict, list[dict], GroundTruth, Detections]:
    """An annotation file's content, COCO's results, and both as the evaluation has them.

    Scores tie between images, and not within one: which of an image's own come first is a matter
    of their order alone.
    """
    rng = np.random.default_rng(seed)
    content = random_content(rng, images, objects)
    truth = read_truth(register(folder, content), masks)
    found = []
    for image in content["images"]:
        count = int(rng.integers(0, most + 1))
        instances = random_instances(rng, content, image["id"], count)
        instances.scores[:] = _tied_between_images(rng, count)
        found.append(ImageDetections.of(image["id"], instances, 0.6, masks))
    ids = list(truth.category_ids)
    results = [result for image in found for result in image.in_coco_format(ids)]
    return content, results, truth, Detections.join(found, True, masks)


def _tied_between_images(rng: np.random.Generator, count: int):
    import torch

    return torch.from_numpy(rng.permutation(64)[:count] / 64 + 1 / 128).float()


def resampled(content: dict, results: list[dict], weights: np.ndarray) -> tuple[dict, list[dict]]:
    """A dataset that has each image so many times, copies side by side, and its detections."""
    images, annotations, found = [], [], []
    for image, weight in zip(content["images"], weights.tolist(), strict=True):
        for _ in range(weight):
            number = len(images) + 1
            images.append({**image, "id": number})
            for entries, mine in ((content["annotations"], annotations), (results, found)):
                same = [entry for entry in entries if entry["image_id"] == image["id"]]
                mine += [
                    {**json.loads(json.dumps(entry)), "image_id": number, "id": len(mine) + i}
                    for i, entry in enumerate(same, 1)
                ]
    for entry in found:
        del entry["id"]
    return {**content, "images": images, "annotations": annotations}, found
