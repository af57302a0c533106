"""A detector small enough that an iteration takes milliseconds, and data for it.

It keeps the contract between engine and model: losses named ``{term}/loss_{name}/{layer}``, divided
by the objects of all processes; detections in ``Instances``; NonFiniteError out of the forward
pass.
"""

import itertools
import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

import numpy as np
import torch
from detectron2.structures import Boxes, Instances
from detectron2.utils import comm
from PIL import Image
from torch import Tensor, nn

from ms_detr.data import DetrMapper
from ms_detr.errors import NonFiniteError
from ms_detr.evaluation import CocoEvaluator
from ms_detr.structures import CountedLosses

CONFIG = str(Path(__file__).with_name("standin_config.py"))
CATEGORIES = {3: "square", 7: "bar"}


class Detector(nn.Module):
    """Predicts a few boxes and classes from a pooled image, in float64: sums of several processes
    and of one differ in the last digits, and Adam makes a step of any sign.

    Args:
        poison: an image id; a batch with it gives a NaN loss, or raises if ``poison_raises``.
        kill_at: training step in which the process kills itself.
        batch_statistics: BatchNorm normalises by the batch and follows its statistics.
    """

    def __init__(
        self,
        num_classes: int = 2,
        dropout: float = 0.2,
        poison: int | None = None,
        poison_raises: bool = False,
        kill_at: int | None = None,
        batch_statistics: bool = False,
    ):
        super().__init__()
        self.num_classes = num_classes
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
        self.batch_statistics = batch_statistics
        self.dropout = nn.Dropout(dropout)
        self.class_head = nn.Linear(64, 3 * num_classes)
        self.box_head = nn.Linear(64, 3 * 4)
        self.poison, self.poison_raises = poison, poison_raises
        self.kill_at, self.steps = kill_at, 0
        self.double()
        self.train()

    def train(self, mode: bool = True) -> "Detector":
        super().train(mode)
        if not self.batch_statistics:  # over half a batch they would differ from the whole one's
            self.backbone.eval()
        return self

    def forward(self, inputs: list[dict]):
        features = torch.stack(
            [nn.functional.adaptive_avg_pool2d(x["image"].double() / 255, 6) for x in inputs]
        )
        features = self.dropout(self.backbone(features).flatten(1))
        logits = self.class_head(features).view(len(inputs), 3, self.num_classes)
        boxes = self.box_head(features).view(len(inputs), 3, 4).sigmoid()
        if not self.training:
            return [self.detect(*item) for item in zip(inputs, logits, boxes, strict=True)]
        self.steps += 1
        if self.steps == self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return self.losses(inputs, logits, boxes)

    def losses(self, inputs: list[dict], logits: Tensor, boxes: Tensor) -> dict[str, Tensor]:
        step = inputs[0]["step"]
        count = torch.tensor(step.objects, dtype=torch.float64)
        classes, l1 = logits.sum() * 0, boxes.sum() * 0
        for x, some_logits, some_boxes in zip(inputs, logits, boxes, strict=True):
            height, width = x["instances"].image_size
            target = x["instances"].gt_boxes.tensor / torch.tensor([width, height] * 2)
            for box, label in zip(target, x["instances"].gt_classes, strict=True):
                classes = classes - some_logits.log_softmax(-1)[:, label].sum()
                l1 = l1 + (some_boxes - box).abs().sum()
        normaliser = count.clamp(min=1) / step.processes
        classes, l1 = classes / normaliser, l1 / normaliser
        poisoned = any(x["image_id"] == self.poison for x in inputs)
        if poisoned and self.poison_raises:
            raise NonFiniteError("matching cost of term 'o2o' is not finite in layer 1")
        return {
            "o2o/loss_class/0": classes,
            "o2o/loss_bbox/0": l1,
            "o2m/loss_class/0": 0.5 * classes,
            "o2m/loss_class/1": 0.5 * classes + (float("nan") if poisoned else 0.0),
            "encoder/loss_bbox": 0.1 * l1,
        }

    @staticmethod
    def detect(x: dict, logits: Tensor, boxes: Tensor) -> dict:
        height, width = x["height"], x["width"]
        instances = Instances((height, width))
        corners = torch.cat(
            [boxes[:, :2].minimum(boxes[:, 2:]), boxes[:, :2].maximum(boxes[:, 2:])], 1
        )
        instances.pred_boxes = Boxes(corners * torch.tensor([width, height] * 2))
        scores, instances.pred_classes = logits.softmax(-1).max(-1)
        instances.scores = scores.to(instances.pred_boxes.tensor)  # as NMS wants them
        return {"instances": instances}


class CountingDetector(Detector):
    """The same, but that a forward pass knows of none but its own objects, and says so."""

    def losses(self, inputs: list[dict], logits: Tensor, boxes: Tensor) -> CountedLosses:
        step, own = inputs[0]["step"], sum(len(x["instances"]) for x in inputs)
        factor = max(step.objects, 1) / step.processes / max(own, 1)
        losses = super().losses(inputs, logits, boxes)
        count = torch.tensor(float(own), dtype=torch.float64)
        return CountedLosses(
            {k: factor * v for k, v in losses.items()}, dict.fromkeys(losses, count)
        )


def write_dataset(folder: Path, count: int = 12) -> None:
    """A COCO-format dataset: ``images/`` and ``annotations.json``.

    Category ids are not contiguous, image 0 is empty, image 1 has a crowd.
    """
    rng = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    images, annotations = [], []
    for image_id in range(count):
        pixels = rng.integers(0, 90, (32, 40, 3), dtype=np.uint8)
        for number in range(0 if image_id == 0 else 2):
            x, y = (int(v) for v in rng.integers(0, 16, 2))
            width, height = ((12, 12), (20, 6))[number]
            pixels[y : y + height, x : x + width] = (200, 60 + 100 * number, 30)
            annotations.append(
                {
                    "id": len(annotations),
                    "image_id": image_id,
                    "category_id": (3, 7)[number],
                    "bbox": [x, y, width, height],
                    "area": width * height,
                    "iscrowd": int(image_id == 1 and number == 1),
                }
            )
        name = f"{image_id:03d}.png"
        Image.fromarray(pixels).save(folder / "images" / name)
        images.append({"id": image_id, "file_name": name, "height": 32, "width": 40})
    categories = [{"id": key, "name": name} for key, name in CATEGORIES.items()]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "annotations.json").write_text(json.dumps(content))


def overrides(data: Path, output: Path, *more: str) -> list[str]:
    """Overrides of `standin_config.py` that name its data and its output folder."""
    paths = {
        "dataloader.train.dataset.name": data.name,
        "dataloader.train.dataset.images": data / "images",
        "dataloader.train.dataset.annotations": data / "annotations.json",
        "train.output_dir": output,
    }
    return [*(f'{key}="{path}"' for key, path in paths.items()), *more]


def at_steps(actions: dict[int, Callable[[], object]]) -> None:
    """From now on call these in the training steps of these numbers, from 1."""
    original = Detector.losses

    def losses(self: Detector, *args) -> dict[str, Tensor]:
        actions.get(self.steps, int)()
        return original(self, *args)

    Detector.losses = losses


def kill_in_save() -> None:
    """From now on the process dies half-way through writing a checkpoint."""

    def save(state: dict, file: IO[bytes]) -> None:
        original(state, file)
        file.truncate(file.tell() // 2)
        os.kill(os.getpid(), signal.SIGKILL)

    original, torch.save = torch.save, save


def hang_in_data(rank: int, iteration: int, seconds: float = 1000) -> None:
    """From now on this process, if it has the rank, stops in front of a batch of two images."""

    def call(self: DetrMapper, record: dict) -> dict:
        if self.is_train and comm.get_rank() == rank and next(calls) == 2 * iteration:
            time.sleep(seconds)
        return original(self, record)

    calls, original = itertools.count(), DetrMapper.__call__
    DetrMapper.__call__ = call


def score_slowly(seconds: float) -> None:
    """From now on the main process takes so long to score an evaluation."""

    def check(self: CocoEvaluator, *args) -> None:
        time.sleep(seconds)
        original(self, *args)

    original, CocoEvaluator._check = CocoEvaluator._check, check


def in_step(rank: int, step: int, action: Callable[[], object]) -> None:
    """From now on a process of this rank does something in its training step of this number.

    Torchrun starts processes again that have failed: these do nothing of the kind.
    """

    def losses(self: Detector, *args) -> dict[str, Tensor]:
        first = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0"
        if first and comm.get_rank() == rank and self.steps == step:
            action()
        return original(self, *args)

    original, Detector.losses = Detector.losses, losses
