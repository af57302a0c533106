"""Prediction: from image files, or images in memory, to objects."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar, cast, overload

import numpy as np
import torch
from detectron2.structures import Instances
from omegaconf import DictConfig
from PIL import Image
from torch import nn

from ..data import DetrMapper, ImageError, load_image
from ..data.images import Header, to_array
from ..errors import ConfigError
from ..evaluation import evaluating
from ..meta_arch import GeneralizedDETR, Usage
from .building import build

Source = str | os.PathLike[str] | Image.Image | np.ndarray

K = TypeVar("K")

ALONE = "the image"  # its name where it has no other
WAITING = 4  # batches' inputs at most are held, of sizes of which there is no whole batch yet
WANTED = "give a path, a PIL image, or a uint8 array (H, W, 3) of RGB values from 0 to 255"


@overload
def predict(model: nn.Module, images: Source, cfg: DictConfig | None = None) -> Instances: ...


@overload
def predict(
    model: nn.Module, images: Sequence[Source], cfg: DictConfig | None = None
) -> list[Instances]: ...


def predict(
    model: nn.Module, images: Source | Sequence[Source], cfg: DictConfig | None = None
) -> Instances | list[Instances]:
    """Find the objects in images, as in the evaluation of the model's config.

    An image is turned upright by its orientation tag, and resized and brought into the model's
    order of channels by the config's ``dataloader.test.mapper``. A batch has up to
    ``dataloader.test.batch_size`` images, all of one size after that: none is padded for the sake
    of another.

    Args:
        model: of `load_model`, which tells the model how its images are prepared.
        images: a path, a PIL image, or a uint8 array (H, W, 3) of RGB values from 0 to 255; or a
            list of these.
        cfg: the config of a model that was built in another way, or to prepare images otherwise.

    Returns:
        Detectron2's Instances on the CPU, without gradients, by descending score: pred_boxes (n, 4)
        xyxy in pixels of the upright image, scores (n,), pred_classes (n,), whose names are in
        ``model.class_names``, and with a mask branch pred_masks (n, H, W) bool. For a list a list.

    Raises:
        ConfigError: the model doesn't know how its images are prepared, or not by our mapper.
        MissingFileError: there is no such file.
        ImageError: a file is no image, or an array not of this kind.
        TypeError: an image is something else.
    """
    usage = usage_of(model, cfg)
    if isinstance(images, (list, tuple)):
        named = [(f"images[{index}]", image) for index, image in enumerate(images)]
        return _predict(model, usage, named)
    return _predict(model, usage, [(ALONE, cast(Source, images))])[0]


def usage_of(model: nn.Module, cfg: DictConfig | None) -> Usage:
    """Return the config's mapper and batch size, else those that the model knows."""
    usage = model.usage if isinstance(model, GeneralizedDETR) else None
    if cfg is not None:
        usage = Usage(build(cfg, "dataloader.test.mapper"), cfg.dataloader.test.batch_size)
    if usage is None:
        raise ConfigError(
            "the model doesn't know how its images are prepared: take it from load_model, or give "
            "its config, predict(model, images, cfg)"
        )
    if not isinstance(usage.mapper, DetrMapper):
        raise ConfigError(
            f"dataloader.test.mapper is a {type(usage.mapper).__name__}: predict needs a DetrMapper"
        )
    return usage


def _predict(
    model: nn.Module, usage: Usage, images: Sequence[tuple[str, Source]]
) -> list[Instances]:
    inputs = (
        (index, usage.mapper.map_image(read_image(image, name, usage.mapper.image_format), name))
        for index, (name, image) in enumerate(images)
    )
    found = dict(predicted(model, inputs, usage.batch_size))
    return [found[index] for index in range(len(images))]


def predicted(
    model: nn.Module, inputs: Iterable[tuple[K, dict[str, Any]]], batch_size: int
) -> Iterator[tuple[K, Instances]]:
    """Yield what a model finds in its inputs, on the CPU, batch by batch.

    What lies wholly in the padding of a square has a box without a size, and is left out.

    Args:
        inputs: of the mapper, each with what it is known by. Few are held at a time.
        batch_size: so many inputs of one size at most are predicted together.
    """
    for batch in _of_one_size(inputs, batch_size):
        with evaluating(model):  # and not while others do something with the results
            outputs = model([x for _, x in batch])
        for (key, _), output in zip(batch, outputs, strict=True):
            found = output["instances"].to("cpu")
            yield key, found[found.pred_boxes.nonempty()]


def _of_one_size(
    inputs: Iterable[tuple[K, dict[str, Any]]], batch_size: int
) -> Iterator[list[tuple[K, dict[str, Any]]]]:
    """Yield batches of inputs of one size as soon as there are enough, or too many of others."""
    waiting: dict[torch.Size, list[tuple[K, dict[str, Any]]]] = defaultdict(list)
    for key, x in inputs:
        size = x["image"].shape
        waiting[size].append((key, x))
        if len(waiting[size]) == batch_size:
            yield waiting.pop(size)
        elif sum(map(len, waiting.values())) >= WAITING * batch_size:
            yield waiting.pop(max(waiting, key=lambda size: len(waiting[size])))
    yield from waiting.values()


def read_image(image: Source, name: str = ALONE, image_format: str = "RGB") -> np.ndarray:
    """Return an upright image, (H, W, C) uint8.

    Args:
        name: for messages.
        image_format: see `ms_detr.data.load_image`.

    Raises:
        MissingFileError, ImageError, TypeError: see `predict`.
    """
    if isinstance(image, (str, os.PathLike)):
        return load_image(os.path.expanduser(image), image_format)[0]
    if isinstance(image, np.ndarray):
        if problem := _array_problem(image):
            found = f"an array of {image.dtype} {image.shape}"
            raise ImageError(f"{name}, {found}, {problem}; {WANTED}")
        return to_array(Image.fromarray(image), image_format)
    if isinstance(image, Image.Image):
        if problem := Header(*image.size, 1, image.mode).problem():
            raise ImageError(f"{name} {problem}")
        try:
            return to_array(image, image_format)
        except Exception as error:  # it was opened and not decoded yet
            raise ImageError(f"{name} can't be decoded: {type(error).__name__}: {error}") from error
    if isinstance(image, torch.Tensor):
        raise TypeError(
            f"{name} is a tensor of {image.dtype} {tuple(image.shape)}; {WANTED} (of a uint8 "
            "tensor (3, H, W): tensor.permute(1, 2, 0).cpu().numpy())"
        )
    raise TypeError(f"{name} is a {type(image).__name__}; {WANTED}")


def _array_problem(image: np.ndarray) -> str | None:
    """Say what is wrong with an array and how it is mended; None where nothing is."""
    shape = image.shape
    if image.size == 0:
        return "is empty"
    if image.dtype == bool:
        return "is a mask and no image"
    if np.issubdtype(image.dtype, np.floating):
        scaled = "255 * image" if image.max() <= 1 else "image"
        return f"isn't of whole numbers from 0 to 255: ({scaled}).round().astype(numpy.uint8)"
    if image.dtype != np.uint8:
        return "isn't of 8 bits: image.astype(numpy.uint8) if its values are from 0 to 255"
    if len(shape) == 4:
        return "is several images: list(images)"
    if len(shape) == 2 or (len(shape) == 3 and shape[2] == 1):
        return "has one channel: PIL.Image.fromarray(image.reshape(image.shape[:2]))"
    if len(shape) == 3 and shape[2] == 4:
        return "has an alpha channel: image[..., :3]"
    if len(shape) == 3 and shape[0] == 3 != shape[2]:
        return "has its channels first: image.transpose(1, 2, 0)"
    return None if len(shape) == 3 and shape[2] == 3 else "has another shape"
