"""Detectron2's model zoo: where its files are, and what images its backbones want."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager
from torch import nn

from ..errors import CheckpointError, SystemLimitError, one_line

logger = logging.getLogger(__name__)

ZOO = "detectron2://"
LOADERS = ("train", "test")


@dataclass(frozen=True)
class Input:
    """What a backbone was trained to read.

    Attributes:
        image_format: order of the channels.
        mean, std: of the channels, in that order.
        stride_in_1x1: whether blocks have their stride in the first convolution; None where there
            is no such choice.
    """

    image_format: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    stride_in_1x1: bool | None

    def overrides(self) -> str:
        """What a config of ours needs for it."""
        mean, std = (",".join(f"{value:g}" for value in values) for values in (self.mean, self.std))
        order = [f"dataloader.{x}.mapper.image_format={self.image_format}" for x in LOADERS]
        values = [f"model.pixel_mean=[{mean}]", f"model.pixel_std=[{std}]", *order]
        if self.stride_in_1x1 is not None:
            values.append(f"+model.backbone.stride_in_1x1={str(self.stride_in_1x1).lower()}")
        return " ".join(values)

    def fits(self, model: nn.Module) -> bool:
        """Whether a model prepares images so, as far as a model knows that."""
        known: dict[str, Any] = {"pixel_mean": self.mean, "pixel_std": self.std}
        for name, values in known.items():
            found = getattr(model, name, None)
            if found is not None and not np.allclose(found.flatten().tolist(), values):
                return False
        stride = _stride_in_1x1(model)
        return None in (stride, self.stride_in_1x1) or stride == self.stride_in_1x1


TORCHVISION = Input("RGB", (123.675, 116.28, 103.53), (58.395, 57.12, 57.375), False)
MSRA = Input("BGR", (103.53, 116.28, 123.675), (1.0, 1.0, 1.0), True)
LITE = Input("RGB", (127.0, 127.0, 127.0), (128.0, 128.0, 128.0), None)
# By layout.
INPUTS = {
    "torchvision": TORCHVISION,
    "detectron2": TORCHVISION,
    "caffe2": MSRA,
    "efficientnet-lite0": LITE,
}


def expect_input(model: nn.Module, source: str, layout: str) -> None:
    """Make sure that a model prepares images as a backbone's weights want them.

    The order of the channels is not the model's: a config's is compared with its means where it is
    checked, see `ms_detr.engine.pairs`.

    Args:
        layout: of the weights, see `ms_detr.convert.LAYOUTS`. What is surely wrong is an error; of
            weights in torchvision's layout, which may have been trained on since, it is a warning.

    Raises:
        CheckpointError: it doesn't; says what to override.
    """
    wanted = INPUTS.get(layout)
    if wanted is None or wanted.fits(model):
        return
    problem = (
        f"{source} was trained on {wanted.image_format} images with other means and deviations, or "
        f"with strides in another place, than the model has: {wanted.overrides()}"
    )
    if wanted is not TORCHVISION:
        raise CheckpointError(problem)
    logger.warning("%s", problem)


def zoo_file(uri: str) -> str:
    """Fetch a file of Detectron2's model zoo into the cache of its path manager, as a collective.

    Args:
        uri: what stands behind a ``?`` in it is left out.

    Raises:
        SystemLimitError: in all processes, if one of them failed.
    """
    uri = uri.partition("?")[0]
    path, failure = "", ""
    if comm.get_local_rank() == 0:  # by one process of each machine
        path, failure = _fetched(uri)
    failures = [text for text in comm.all_gather(failure) if text]
    if not failures and not path:
        path, failure = _fetched(uri)
        failures = [failure] if failure else []
    if failures:
        raise SystemLimitError(
            f"can't download {uri} ({failures[0]}): give the file itself, "
            'train.init_checkpoint=FILE, or start without it: train.init_checkpoint=""'
        )
    return path


def _fetched(uri: str) -> tuple[str, str]:
    try:
        return PathManager.get_local_path(uri), ""
    except Exception as error:  # whatever the network, the cache or the path manager raise
        return "", one_line(error)


def _stride_in_1x1(model: nn.Module) -> bool | None:
    """Where the blocks of a model's ResNet have their stride; None where that can't be told."""
    try:
        block: Any = model.get_submodule("backbone.res3.0")
        strides = [tuple(getattr(block, name).stride) for name in ("conv1", "conv2")]
        block.get_submodule("conv3")  # else it has no 1x1
    except AttributeError:
        return None
    return {((2, 2), (1, 1)): True, ((1, 1), (2, 2)): False}.get((strides[0], strides[1]))
