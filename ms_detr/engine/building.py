"""Parts of a config, built; and errors that name the part which can't be."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from detectron2.config import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError

from ..errors import ConfigError, UserError, short_message


def build(cfg: DictConfig, key: str) -> Any:
    """Instantiate a part of a config.

    Raises:
        ConfigError: the part can't be built; names its key.
    """
    with building(key):
        node = OmegaConf.select(cfg, key)
        if node is None:
            raise ConfigError(f"{key} is null, and nothing can take its place")
        _check_links(node)
        return instantiate(node)


def _check_links(node: Any) -> None:
    """Raise ConfigError if a key in the node is linked to one that was dropped."""
    try:
        OmegaConf.to_container(node, resolve=True)
    except InterpolationResolutionError as error:
        behind: BaseException | None = error
        while behind is not None:
            if isinstance(behind, UserError):  # of what computes the key from others
                raise behind from None
            behind = behind.__context__
        reason = str(error).splitlines()[0].rpartition("interpolation: ")[2]
        raise ConfigError(
            f"{error.full_key} is a link that leads nowhere ({reason}): change it as well"
        ) from error


@contextmanager
def building(key: str) -> Iterator[None]:
    """Turn an error out of the block, which builds ``key`` of a config, into one that names it.

    Classes are called with whatever a config holds, and complain of it in ways of their own, with a
    TypeError or RuntimeError as often as with a ValueError: nothing tells that from a bug in them.
    Mostly it is a wrong value, so the message is one line; the traceback is there for --debug.
    """
    try:
        yield
    except Exception as error:
        if short_message(error) is not None:
            raise
        reason = " ".join(str(error).split())
        raise ConfigError(
            f"{key} can't be built from this config: {type(error).__name__}: {reason} "
            "(--debug shows where)"
        ) from error
