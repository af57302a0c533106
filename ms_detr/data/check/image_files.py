"""A look at every image file: its header, and its pixels unless they are too many."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from tqdm import tqdm

from ...errors import MissingFileError
from ...files import reason
from ..image_headers import may_be_cut_short
from ..images import (
    Header,
    ImageError,
    OneAtATime,
    at_most,
    load_image,
    open_image,
    pixel_digest,
    read_header,
)
from .findings import Kind

THREADS = min(4, os.cpu_count() or 1)  # decoding releases the interpreter
MOST_PIXELS = 89_478_485  # Pillow warns of more, and they take a gigabyte on their way
BATCH = 1024  # files that wait for a thread
_ANY = 1 << 62


@dataclass(frozen=True)
class Look:
    """What a file was found to be.

    Attributes:
        header: None if there is none.
        digest: of the upright image's pixels; None if they were not read.
        kind, problem: why the file can't be used, if it can't.
    """

    header: Header | None = None
    digest: bytes | None = None
    kind: Kind | None = None
    problem: str = ""


def look_at(
    files: Sequence[str], most: int = MOST_PIXELS, pixels: bool = True, progress: bool = False
) -> dict[str, Look]:
    """Look at image files, each once.

    Args:
        most: of images of more pixels the header alone is read.
        pixels: decode them; else headers and the ends of files are read.
        progress: show a bar on a terminal.
    """
    unique = [*dict.fromkeys(files)]
    look = partial(_look, most=most, pixels=pixels, alone=OneAtATime())
    found: list[Look] = []
    bar = tqdm(total=len(unique), desc="looking at images", unit="img",
               disable=None if progress else True)  # fmt: skip
    # No file is too large to be opened: what a header says of its size is wanted.
    with at_most(_ANY), bar, ThreadPoolExecutor(THREADS) as pool:
        try:
            for start in range(0, len(unique), BATCH):
                for one in pool.map(look, unique[start : start + BATCH]):
                    found.append(one)
                    bar.update()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return dict(zip(unique, found, strict=True))


def _look(file: str, most: int, pixels: bool, alone: OneAtATime) -> Look:
    header, is_short = None, False
    try:
        with open_image(file) as image:
            header, is_short = read_header(image), may_be_cut_short(image)
        count = header.width * header.height
        if count > most:
            return Look(header, None, Kind.HUGE_IMAGE, _size(header, most))
        if problem := header.problem():
            return Look(header, None, Kind.DEEP_IMAGE, problem)
        if not (pixels or is_short):
            return Look(header)
        with alone(*header.size):
            return Look(header, pixel_digest(load_image(file)[0]))
    except MissingFileError:
        return Look(None, None, Kind.MISSING_IMAGE)
    except ImageError as error:
        text = str(error).removeprefix(f"{file} ")
        kind = Kind.TRUNCATED_IMAGE if is_short or "truncated" in text else Kind.BROKEN_IMAGE
        return Look(header, None, kind, text)
    except OSError as error:
        return Look(header, None, Kind.BROKEN_IMAGE, f"can't be read: {reason(error)}")


def _size(header: Header, most: int) -> str:
    count = header.width * header.height
    return (
        f"{header.width:,} x {header.height:,}, {count / 1e6:,.4g} million pixels; at most "
        f"{most / 1e6:,.4g} million are read"
    )
