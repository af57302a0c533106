"""The headers of a dataset's image files, kept beside the annotation file for the next start.

Headers are read, and no pixels. A file whose size and time of change are known from an earlier
start isn't opened again.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass
from pathlib import Path

from PIL import Image

from ..files import write_text
from .images import Header, ImageError, OneAtATime, chunks_to_end, open_image, read_header

logger = logging.getLogger(__name__)

KNOWN = ".image-headers"  # behind the annotation file's name
VERSION = 1
THREADS = 16  # they wait for the disk
CHUNK = 256  # files a task

Stamp = tuple[int, int]  # bytes, and nanoseconds of the last change


@dataclass(frozen=True)
class Found:
    """What a file was found to be: its header, or why it can't be used; and its stamp."""

    stamp: Stamp | None = None
    header: Header | None = None
    problem: str | None = None
    is_missing: bool = False


def read_headers(files: Sequence[str], json_file: str) -> dict[str, Found]:
    """Find out what each image file is, without opening those known from an earlier start.

    Args:
        json_file: the annotation file. What was found is kept beside it, if that folder can be
            written to.
    """
    known = _read_known(json_file)
    many = sum(file not in known for file in files) >= CHUNK
    if many:
        logger.info(
            "looking into %d image files of %s; dataloader.check_images=false leaves that out",
            len(files), json_file,
        )  # fmt: skip
    start = time.perf_counter()
    found = examine(files, known)
    if many:
        logger.info("that took %.1f s; next time it is known", time.perf_counter() - start)
    news = (one.header and known.get(file) != one for file, one in found.items())
    if len(known) > len(found) or any(news):
        _keep(found, json_file)
    return found


def examine(
    files: Sequence[str], known: Mapping[str, Found] | None = None, threads: int = THREADS
) -> dict[str, Found]:
    """Look at each file, but open only those that have changed since they were known.

    Args:
        known: of an earlier look, by file.
        threads: of this process.
    """
    known = known or {}
    alone = OneAtATime()

    def look(chunk: Sequence[str]) -> list[Found]:
        return [_look(file, known.get(file), alone) for file in chunk]

    chunks = [files[i : i + CHUNK] for i in range(0, len(files), CHUNK)]
    with ThreadPoolExecutor(threads) as pool:
        found = [one for part in pool.map(look, chunks) for one in part]
    return dict(zip(files, found, strict=True))


def _look(file: str, known: Found | None, alone: OneAtATime) -> Found:
    try:
        facts = os.stat(file)
        stamp = facts.st_size, facts.st_mtime_ns
        if known is not None and known.stamp == stamp:
            return known
        with open_image(file) as image:
            header = read_header(image)
            if may_be_cut_short(image):
                with alone(*header.size):
                    image.load()
                    image.close()
        return Found(stamp, header)
    except FileNotFoundError:
        return Found(problem=f"there is no image file {file}", is_missing=True)
    except ImageError as error:
        return Found(problem=str(error))
    except OSError as error:
        return Found(problem=f"{file} can't be read: {error.strerror}")


def may_be_cut_short(image: Image.Image) -> bool:
    """Tell whether the mark is missing with which files of this format should end."""
    file = getattr(image, "fp", None)
    if file is None:
        return False
    if image.format == "PNG":
        return b"IEND" not in chunks_to_end(file)
    if image.format not in ("JPEG", "MPO"):
        return False
    position = file.tell()
    file.seek(-2, os.SEEK_END)
    end = file.read(2)
    file.seek(position)
    return end != b"\xff\xd9"


def _read_known(json_file: str) -> dict[str, Found]:
    """Return what `_keep` has written, by file; nothing if that is missing or can't be read."""
    try:
        content = json.loads(Path(json_file + KNOWN).read_text(encoding="utf-8"))
        if content["version"] != VERSION:
            return {}
        return {
            file: Found((size, changed), Header(*header))
            for file, (size, changed, *header) in content["headers"].items()
        }
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return {}


def _keep(found: Mapping[str, Found], json_file: str) -> None:
    """Write the headers of all files that can be used for the next start."""
    headers = {
        file: [*one.stamp, *astuple(one.header)]
        for file, one in found.items()
        if one.header and one.stamp
    }
    try:
        write_text(json_file + KNOWN, json.dumps({"version": VERSION, "headers": headers}))
    except OSError as error:
        logger.info("the next start checks all images again: %s", error)
