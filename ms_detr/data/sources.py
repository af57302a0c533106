"""What somebody names to have it predicted: files, folders, patterns, standard input."""

from __future__ import annotations

import glob
import io
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from .images import ImageError, unreadable

STDIN = "-"
MAX_STDIN = 2**30  # bytes

# What of a folder is taken; a file that is named is taken for an image, whatever its suffix.
IMAGE_SUFFIXES = {
    *(".avif", ".bmp", ".gif", ".heic", ".heif", ".jfif", ".jp2", ".jpeg", ".jpg", ".pbm", ".pgm"),
    *(".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"),
}
VIDEO_SUFFIXES = {".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm", ".wmv"}


@dataclass(frozen=True)
class SourceFile:
    """An image or video.

    Attributes:
        path: as it was named, or found; `STDIN` for an image on the standard input.
        name: what its results may be called: its path below the folder that was named, less its
            suffix, and with a number where an earlier one has the same.
    """

    path: str
    name: str

    @property
    def is_video(self) -> bool:
        return Path(self.path).suffix.lower() in VIDEO_SUFFIXES

    @property
    def picture(self) -> str:
        """What its picture is called."""
        return f"{self.name}.mp4" if self.is_video else f"{self.name}.png"


def find_sources(
    words: Sequence[str], left_out: Sequence[Path] = ()
) -> tuple[list[SourceFile], list[str]]:
    """Return the images and videos that are named, each once, and what is wrong with the names.

    A folder stands for its images and videos, those of its subfolders and of links to folders
    included, in the order of their paths, less what is hidden. A word that is no file's path and
    has ``*``, ``?`` or ``[`` is a pattern, in which ``**`` stands for any folders. That a named
    file is missing is left to who reads it.

    Args:
        left_out: folders; what folders and patterns have in them is not taken.
    """
    problems: list[str] = []
    found: list[SourceFile] = []
    seen: set[str] = set()
    names: set[str] = set()
    barred = [os.path.join(os.path.realpath(folder), "") for folder in left_out]
    for word in words:
        taken, passed = 0, 0
        for path, name in _matches(word, problems):
            place = path if path == STDIN else os.path.realpath(path)
            if path != os.path.expanduser(word) and place.startswith(tuple(barred)):
                passed += 1
                continue
            taken += 1
            if place not in seen:
                seen.add(place)
                found.append(SourceFile(path, _own_name(name, names)))
        if not taken:
            kind = "folder" if os.path.isdir(word) else "pattern"
            where = f" but below {' and '.join(map(str, left_out))}" if passed else ""
            problems.append(f"there is no image and no video in the {kind} {word}{where}")
    return found, problems


def read_stdin() -> Image.Image:
    """Return the image on the standard input; it may not be decoded yet.

    Raises:
        ImageError: there is none, or it is too large.
    """
    content = sys.stdin.buffer.read(MAX_STDIN + 1)
    if len(content) > MAX_STDIN:
        raise ImageError(f"the standard input has more than {MAX_STDIN >> 20} MiB")
    try:
        return Image.open(io.BytesIO(content))
    except Exception as error:  # Pillow's decoders raise errors of many kinds
        raise ImageError(unreadable("the standard input", error)) from error


def _matches(word: str, problems: list[str]) -> Iterator[tuple[str, str]]:
    """Yield the files that a word stands for, each with its path below what was named."""
    path = os.path.expanduser(word)
    if word == STDIN:
        yield STDIN, "stdin"
    elif os.path.isdir(path):
        yield from _in_folder(path, problems)
    elif os.path.lexists(path) or not glob.has_magic(path):
        yield path, os.path.basename(path)
    else:
        for match in sorted(glob.iglob(path, recursive=True)):
            if os.path.isfile(match) and _has_suffix(match):
                yield match, os.path.relpath(match, _fixed_part(path))


def _in_folder(folder: str, problems: list[str]) -> Iterator[tuple[str, str]]:
    def unreadable(error: OSError) -> None:
        problems.append(f"{error.filename}: {error.strerror}")

    paths = []
    seen: set[str] = set()
    for parent, folders, files in os.walk(folder, onerror=unreadable, followlinks=True):
        place = os.path.realpath(parent)
        folders[:] = [] if place in seen else sorted(_shown(folders))
        if place in seen:
            continue
        seen.add(place)
        paths += [os.path.join(parent, file) for file in _shown(files) if _has_suffix(file)]
    for path in sorted(paths):
        yield path, os.path.relpath(path, folder)


def _shown(names: Iterable[str]) -> list[str]:
    return [name for name in names if not name.startswith(".")]


def _has_suffix(path: str) -> bool:
    return Path(path).suffix.lower() in IMAGE_SUFFIXES | VIDEO_SUFFIXES


def _fixed_part(pattern: str) -> str:
    """Return the folder that all of a pattern's matches lie in."""
    folder = os.path.dirname(pattern)
    while glob.has_magic(folder):
        folder = os.path.dirname(folder)
    return folder or os.curdir


def _own_name(name: str, taken: set[str]) -> str:
    """Return a name without its suffix, told apart from those that are taken, whatever the case."""
    stem = os.path.splitext(name)[0]
    own, number = stem, 1
    while own.casefold() in taken:
        number += 1
        own = f"{stem}_{number}"
    taken.add(own.casefold())
    return own
