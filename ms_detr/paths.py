"""Paths as people write them."""

from __future__ import annotations

import os

from .errors import ConfigError

# Names of a config's keys whose values are paths.
KEYS = ("output_dir", "init_checkpoint", "images", "annotations", "folder", "converted")


def expand(path: str | os.PathLike[str]) -> str:
    """Replace a ``~`` or ``~name`` at the start of a path by that home folder, as shells do.

    Raises:
        ConfigError: nobody of that name is known here.
    """
    text = os.fspath(path)
    expanded = os.path.expanduser(text)
    if expanded.startswith("~"):
        raise ConfigError(
            f"path '{text}': there is no home folder {text.partition(os.sep)[0]}; a file or folder "
            f"of that name is ./{text}"
        )
    return expanded
