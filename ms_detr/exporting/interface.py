"""What an exported model takes and gives: a module of tensors around a detector."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..errors import ConfigError
from ..meta_arch import OUTPUT, GeneralizedDETR
from ..structures import PredictionSet

INPUTS = ("images", "sizes")
ORDERS = {"RGB": (0, 1, 2), "BGR": (2, 1, 0)}  # of the model's channels in an RGB image


@dataclass(frozen=True)
class Form:
    """How a model is exported.

    Attributes:
        preprocess: take uint8 images in RGB; else what the model sees, normalised.
        postprocess: give detections; else what every query predicts.
        masks: give masks, too, of a model that has them.
        gather: sample maps by gathers instead of ``grid_sample``.
        batch: how many images at a time, if always as many.
        size: height and width of the padded images, if always the same.
    """

    preprocess: bool = True
    postprocess: bool = True
    masks: bool = False
    gather: bool = False
    batch: int | None = None
    size: tuple[int, int] | None = None


class PixelInput(nn.Module):
    """Images (B, 3, H, W), uint8 in RGB, to what the model sees."""

    dtype = torch.uint8

    def __init__(self, model: GeneralizedDETR, image_format: str):
        super().__init__()
        if image_format not in ORDERS:
            raise ConfigError(
                f"images in the format {image_format} can't be prepared in an exported model: "
                "leave it outside (--no-preprocess)"
            )
        self.register_buffer("order", torch.tensor(ORDERS[image_format]))
        self.register_buffer("mean", model.pixel_mean)
        self.register_buffer("std", model.pixel_std)

    def forward(self, images: Tensor) -> Tensor:
        return (images.index_select(1, self.order).to(self.mean.dtype) - self.mean) / self.std


class NormalisedInput(nn.Module):
    """Images (B, 3, H, W) as the model sees them, float32."""

    dtype = torch.float32

    def forward(self, images: Tensor) -> Tensor:
        return images


class DetectionOutput(nn.Module):
    """The best (query, class) pairs; NMS isn't exported, they are what it would be given.

    Gives boxes (B, n, 4) as (x1, y1, x2, y2) in fractions of the image, scores (B, n), labels
    (B, n) int64 and perhaps logits of masks (B, n, h, w) over the padded image.
    """

    def __init__(self, model: GeneralizedDETR, masks: bool):
        super().__init__()
        self.postprocess = model.postprocess
        self.masks = masks
        self.names = ("boxes", "scores", "labels", *(["masks"] if masks else []))

    def forward(self, predictions: PredictionSet) -> tuple[Tensor, ...]:
        found = self.postprocess.candidates(predictions)
        plain = (found.boxes, found.scores, found.labels)
        return (*plain, predictions.masks.of_images(found.queries)) if self.masks else plain


class QueryOutput(nn.Module):
    """What every query predicts.

    Gives logits (B, Q, K), boxes (B, Q, 4) as (center x, center y, width, height) in fractions of
    the image and perhaps logits of masks (B, Q, h, w) over the padded image.
    """

    def __init__(self, masks: bool):
        super().__init__()
        self.masks = masks
        self.names = ("logits", "boxes", *(["masks"] if masks else []))

    def forward(self, predictions: PredictionSet) -> tuple[Tensor, ...]:
        logits, boxes = predictions.logits[-1], predictions.boxes[-1]
        if not self.masks:
            return logits, boxes
        every = torch.arange(logits.shape[1], device=logits.device).expand(logits.shape[0], -1)
        return logits, boxes, predictions.masks.of_images(every)


class Exported(nn.Module):
    """A detector from tensors to tensors.

    Args:
        image_format: the model's order of channels.

    Raises:
        ConfigError: the form asks for what the model hasn't, or for what can't be exported.
    """

    def __init__(self, model: GeneralizedDETR, form: Form, image_format: str = "RGB"):
        super().__init__()
        if form.masks and model.masks is None:
            raise ConfigError("masks can't be exported: the model has no mask branch")
        if model.auxiliary is not None and model.evaluate_head is not None:
            raise ConfigError(
                f"model.evaluate_head={model.evaluate_head}: detections of auxiliary heads can't "
                "be exported, those of the decoder can (model.evaluate_head=null)"
            )
        self.model = model
        self.form = form
        pixels = form.preprocess
        self.inputs = PixelInput(model, image_format) if pixels else NormalisedInput()
        queries = not form.postprocess
        self.outputs = QueryOutput(form.masks) if queries else DetectionOutput(model, form.masks)
        self.divisor = max(1, model.backbone.size_divisibility)

    def forward(self, images: Tensor, sizes: Tensor) -> tuple[Tensor, ...]:
        """Predict.

        Args:
            images: (B, 3, H, W), padded at the right and the bottom with whatever.
            sizes: (B, 2) int64, height and width of each image in it.

        Returns:
            What ``outputs.names`` names.
        """
        padding = outside(sizes, images.shape[2], images.shape[3])
        images = self.inputs(images).masked_fill(padding[:, None], 0.0)
        if self.divisor > 1:
            missing = (0, -images.shape[3] % self.divisor, 0, -images.shape[2] % self.divisor)
            images = nn.functional.pad(images, missing)
            padding = nn.functional.pad(padding, missing, value=True)
        return self.outputs(self.model.forward_tensors(images, padding)[OUTPUT])


def outside(sizes: Tensor, height: int, width: int) -> Tensor:
    """True in what lies beyond images of some sizes (B, 2), (B, height, width)."""
    rows, columns = (torch.arange(size, device=sizes.device) for size in (height, width))
    below = rows[:, None] >= sizes[:, 0, None, None]
    return below | (columns >= sizes[:, 1, None, None])
