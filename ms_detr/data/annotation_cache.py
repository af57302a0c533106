"""The arrays of an annotation file, read once on a machine and mapped by all of its processes.

They are kept in a folder beside the file. Where that can't be written to, they are kept among
the user's caches. A file that has changed since is read anew, and takes the place of the old one.
"""

from __future__ import annotations

import logging
import os
import time
from contextlib import ExitStack, suppress
from hashlib import blake2b
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from ..files import reason
from ..locks import waiting
from ..paths import users_cache
from .array_file import Arrays, DamagedError, read_arrays, write_arrays
from .records import read_objects

logger = logging.getLogger(__name__)

SUFFIX = ".arrays"  # behind the annotation file's name: the folder
VERSION = 1  # of what the arrays hold, and of how annotations are checked
LARGE = 20_000_000  # bytes: smaller files take less than a second, and are read every time


def is_large(json_file: str | os.PathLike[str]) -> bool:
    """Tell whether a file's arrays are kept, and its records made only when asked for."""
    return os.path.getsize(json_file) >= LARGE


def objects_of(
    json_file: str | os.PathLike[str], masks: bool, runs: bool, cache: bool | str | None = None
) -> Arrays:
    """Return what `ms_detr.data.records.read_objects` does, read or known from before.

    Of several processes that ask for a large file one reads it, while the others wait.

    Args:
        cache: where the arrays of large files are kept, a folder; None or true: beside the file,
            or among the user's caches; false: nowhere.

    Raises:
        ConfigError: ``cache`` is none of these.
    """
    if not isinstance(cache, bool | str | None) or cache == "":
        raise ConfigError(
            "dataloader.annotation_cache must be the name of a folder, null for one beside the "
            f"annotations, or false, got {cache!r}"
        )
    runs = runs and masks
    if cache is False or not is_large(json_file):
        return read_objects(json_file, masks, runs)
    kind = f"masks{'-evaluated' * runs}" if masks else "boxes"
    folders = _folders(json_file, cache)
    for folder in folders:
        found = _known(folder / kind, _key(json_file, kind))
        if found is not None:
            return found
    for folder in folders:
        with ExitStack() as stack:
            try:
                alone = stack.enter_context(
                    waiting(folder / "lock", f"{json_file} is being read by another process")
                )
            except OSError as error:
                logger.info("%s: nothing can be kept in %s: %s", json_file, folder, reason(error))
                continue
            if not alone:
                break
            found = _known(folder / kind, _key(json_file, kind))
            return found or _made(json_file, masks, runs, folder / kind)
    return read_objects(json_file, masks, runs)


def _folders(json_file: str | os.PathLike[str], cache: bool | str | None) -> list[Path]:
    """Return the folders in which the arrays may be, the best first."""
    path = Path(json_file).resolve()
    own = f"{path.name}-{blake2b(os.fsencode(path), digest_size=8).hexdigest()}{SUFFIX}"
    if isinstance(cache, str):
        return [Path(cache).expanduser() / own]
    return [path.with_name(path.name + SUFFIX), users_cache() / own]


def _key(json_file: str | os.PathLike[str], kind: str) -> list[Any]:
    """Return what changes with the content of the arrays."""
    facts = os.stat(json_file)
    return [VERSION, kind, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns]


def _known(path: Path, key: list[Any], checked: bool = True) -> Arrays | None:
    try:
        return read_arrays(path, key, checked)
    except FileNotFoundError:
        return None
    except (OSError, DamagedError) as error:
        logger.info("%s; it is made anew", error)
        return None


def _made(json_file: str | os.PathLike[str], masks: bool, runs: bool, path: Path) -> Arrays:
    """Read the file and keep what is found, if it hasn't changed meanwhile."""
    logger.info("reading %s; the next start finds it in %s", json_file, path)
    start = time.perf_counter()
    key = _key(json_file, path.name)
    arrays = read_objects(json_file, masks, runs)
    if key != _key(json_file, path.name):
        logger.warning("%s has changed while it was read", json_file)
        return arrays
    try:
        write_arrays(path, {**arrays.facts, "key": key}, arrays.arrays)
    except OSError as error:
        logger.warning("%s: nothing is kept for the next start: %s", path, reason(error))
        return arrays
    _clear(path, json_file)
    logger.info("that took %.1f s", time.perf_counter() - start)
    return read_arrays(path, key, checked=False)


def _clear(made: Path, json_file: str | os.PathLike[str]) -> None:
    """Remove what lies beside the arrays that were made, of the same file as it was before."""
    for path in made.parent.iterdir():
        if path.name not in ("lock", made.name) and (
            _known(path, _key(json_file, path.name), checked=False) is None
        ):
            with suppress(OSError):
                path.unlink()
