"""Which of the objects that a model finds are wanted."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from detectron2.structures import Instances
from torchvision.ops import batched_nms

from ..errors import ConfigError, listed

THRESHOLD = 0.3


@dataclass(frozen=True)
class Choice:
    """What an object needs to be told.

    Attributes:
        threshold: least score.
        classes: numbers of classes; None: all.
        nms: of two objects of a class whose boxes' IoU is larger, the one of higher score is kept;
            None: both.
        top: how many of an image at most, the best; None: all.
    """

    threshold: float = THRESHOLD
    classes: tuple[int, ...] | None = None
    nms: float | None = None
    top: int | None = None

    def __post_init__(self) -> None:
        for name, value in (("threshold", self.threshold), ("nms", self.nms)):
            if value is not None and not 0 <= value <= 1:
                raise ConfigError(f"{name} is from 0 to 1, got {value}")
        if self.top is not None and self.top < 1:
            raise ConfigError(f"top is at least 1, got {self.top}")

    def of(self, found: Instances) -> Instances:
        """Return the wanted ones of an image, on the CPU, by descending score."""
        found = self.alone(found)
        if self.nms is not None:
            found = without_duplicates(found, self.nms)
        return found[torch.sort(found.scores, descending=True, stable=True).indices[: self.top]]

    def alone(self, found: Instances) -> Instances:
        """Return those whose score and class are wanted, whatever else there is."""
        wanted = found.scores >= self.threshold
        if self.classes is not None:
            wanted &= torch.isin(found.pred_classes, torch.tensor(self.classes, dtype=torch.int64))
        return found[wanted]


def without_duplicates(found: Instances, iou: float) -> Instances:
    """Return what NMS, class by class, leaves of an image's objects, by descending score."""
    boxes, scores = found.pred_boxes.tensor.double(), found.scores.double()
    return found[batched_nms(boxes, scores, found.pred_classes, iou)]


def class_numbers(
    wanted: Sequence[str | int], names: Sequence[str], num_classes: int
) -> tuple[int, ...]:
    """Return the numbers of classes that are given by name or number; names go first.

    Args:
        names: of the model's classes; empty where they are unknown.

    Raises:
        ConfigError: there is no such class.
    """
    return tuple(_number(word, names, num_classes) for word in wanted)


def _number(word: str | int, names: Sequence[str], num_classes: int) -> int:
    if word in names:
        return names.index(str(word))
    if str(word).isdecimal() and int(word) < num_classes:
        return int(word)
    known = f"numbers from 0 to {num_classes - 1}"
    if not names:
        raise ConfigError(f"there is no class '{word}': the weights tell no names, only {known}")
    folded = {name.casefold(): name for name in names}
    near = difflib.get_close_matches(str(word).casefold(), folded, 3)
    hint = f"; the nearest are {', '.join(folded[name] for name in near)}" if near else ""
    raise ConfigError(f"there is no class '{word}'{hint} (classes: {listed(names)}; or {known})")
