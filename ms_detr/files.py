"""Files that are either complete or not there, and what to say where they can't be written."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PARTIAL = ".partial"
FULL = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def atomic_path(path: str | os.PathLike[str], size: int | None = None) -> Iterator[Path]:
    """Yield a path to write to, which takes the place of ``path`` once the block has ended well.

    A process that dies half-way leaves ``path`` as it was, and a ``*.partial`` file beside it.

    Args:
        size: bytes that will be written, where that is known; for the message.

    Raises:
        OSError: the system can't write there; names ``path``, and the free space if that is why.
    """
    path = Path(path)
    if not path.name:  # "", "." and "/"
        raise IsADirectoryError(errno.EISDIR, "a folder, not a file", str(path))
    partial = path.with_name(path.name + PARTIAL)
    with explained(path, size):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            yield partial
            with partial.open("rb") as file:
                os.fsync(file.fileno())  # the content must reach the disk before the name does
            os.replace(partial, path)
        except BaseException:
            with suppress(OSError):
                partial.unlink(missing_ok=True)
            raise


@contextmanager
def explained(path: str | os.PathLike[str], size: int | None = None) -> Iterator[None]:
    """Name the file, and the free space, where the block can't write it; as in `atomic_path`."""
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(error.errno, _reason(error, Path(path), size), str(path)) from error


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a text file atomically."""
    content = text.encode()
    with atomic_path(path, len(content)) as partial:
        partial.write_bytes(content)


def reason(error: BaseException) -> str:
    """Return an error of the operating system in words, without its file and number."""
    return (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__


def _reason(error: OSError, path: Path, size: int | None) -> str:
    text = reason(error)
    if error.errno not in FULL:
        return text
    needed = "" if size is None else f"about {_megabytes(size)} are needed, "
    with suppress(OSError):
        # A folder that could not even be made stands on the file system of one above it.
        folder = next(parent for parent in path.absolute().parents if parent.is_dir())
        return f"{text}: {needed}{_megabytes(shutil.disk_usage(folder).free)} are free"
    return text


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.3g} MB" if size < 1e9 else f"{size / 1e9:.2f} GB"
