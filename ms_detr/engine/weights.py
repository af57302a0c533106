"""Initial weights: ``train.init_checkpoint``."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
from detectron2.utils import comm
from torch import Tensor, nn

from ..convert import convert_state_dict
from ..paths import expand
from .state import load_strictly, read_checkpoint

logger = logging.getLogger(__name__)

# What weights may fill, the smallest part first: a map's norm outside the body has none published.
PARTS = ("backbone.body.", "backbone.", "")
BACKBONES = {
    "torchvision": {"conv1.weight", "bn1.running_var", "layer1.0.conv1.weight"},
    "swin": {"patch_embed.proj.weight", "layers.0.downsample.reduction.weight"},
}
OFF = 'train.init_checkpoint=""'


def load_weights(model: nn.Module, source: str | None) -> bool:
    """Load weights into a model.

    Args:
        source: empty or None for none; a ``.pth`` file; or a URL, downloaded once into torch hub's
            cache. A whole model, a backbone alone (``backbone.*``), torchvision's ResNet, or a
            published Swin Transformer.

    Returns:
        Whether the whole model was loaded, not the backbone alone.

    Raises:
        FileNotFoundError, ValueError: no such file, not a safe one, or not for this model.
        OSError: the download failed; the message says where to put the file by hand.
    """
    if not source:
        return False
    path = download(source) if source.startswith(("http://", "https://")) else expand(source)
    state = state_of(read_checkpoint(path), path)
    if layout := backbone_layout(state):
        state = convert_state_dict(state, layout)
    part = next(part for part in PARTS if all(name.startswith(part) for name in state))
    load_strictly(model, state, source, required=part)
    logger.info("loaded %s%s", source, " (backbone only)" if part else "")
    return not part


def state_of(content: Any, path: str) -> dict[str, Tensor]:
    """The state dict in a checkpoint: itself, or its ``model`` or ``state_dict`` entry."""
    for key in ("model", "state_dict"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not (
        isinstance(content, Mapping)
        and content
        and all(isinstance(value, Tensor) for value in content.values())
    ):
        raise ValueError(f"{path} holds no weights: expected a state dict, or one under 'model'")
    return {name.removeprefix("module."): value for name, value in content.items()}


def backbone_layout(state: Mapping[str, Tensor]) -> str | None:
    """The layout of a published backbone, by names that only it has; None for our own names."""
    return next((layout for layout, names in BACKBONES.items() if names <= state.keys()), None)


def download(url: str) -> str:
    """Fetch a URL into torch hub's cache, by one process of each machine.

    Returns:
        The cached file.

    Raises:
        OSError: in all processes, if one of them failed.
    """
    cached = Path(torch.hub.get_dir(), "checkpoints", os.path.basename(urlparse(url).path))
    failure = None
    if comm.get_local_rank() == 0 and not cached.is_file():
        try:
            cached.parent.mkdir(parents=True, exist_ok=True)
            logger.info("downloading %s to %s", url, cached)
            # The file's name carries the start of its hash where its publisher wants it checked.
            named = re.search(r"-([a-f0-9]{8,})\.", cached.name)
            torch.hub.download_url_to_file(url, str(cached), named and named[1], progress=False)
        except (OSError, RuntimeError, ValueError) as error:
            failure = str(error) or type(error).__name__
    failures = [text for text in comm.all_gather(failure) if text]
    if failures:
        raise OSError(
            f"can't download {url} ({failures[0]}): put the file at {cached} by hand, or start "
            f"without it: {OFF}"
        )
    return str(cached)
