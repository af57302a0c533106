"""Paths as people write them."""

from __future__ import annotations

import os
from pathlib import Path

from .errors import ConfigError

# Names of a config's keys whose values are paths.
KEYS = ("output_dir", "init_checkpoint", "images", "annotations", "folder", "converted")


def users_cache() -> Path:
    """Return the folder of what is kept for a user and can be made again."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "ms_detr"


def can_be_one(path: str | os.PathLike[str]) -> bool:
    """Tell whether a text can be a path; one with a zero, or half of a letter, can't."""
    try:
        os.lstat(path)
    except ValueError:
        return False
    except OSError:
        pass  # nothing is there
    return True


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
