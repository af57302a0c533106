"""Locks of a run's folder, or of a block, that end with the process that holds them."""

from __future__ import annotations

import errno
import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import ConfigError
from .run_folder import LOCK

logger = logging.getLogger(__name__)

INHERITED = "MS_DETR_LOCK"  # environment variable: the descriptor of a lock, from a parent

# Of file systems.
WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EINVAL)

# A child that is forked off, such as a loader's worker, must not keep the lock of a dead parent.
_held: set[int] = set()


def _drop_all() -> None:
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_drop_all)


@contextmanager
def hold(folder: str | os.PathLike[str]) -> Iterator[int]:
    """Keep a folder, which is made if need be, from other runs while the block lasts.

    The lock is the kernel's (flock) on ``folder/lock``, so one of a process that was killed is
    gone with it; the file itself may stay. A started process may take the lock over: see
    :func:`handed_down`. Where the file system has no locks, a warning says so.

    Yields:
        The descriptor of the lock.

    Raises:
        ConfigError: another run has it; names that one.
        OSError: the folder can't be made or written to.
    """
    folder = Path(folder)
    path = folder / LOCK
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        descriptor = _lock(descriptor, path)
        _held.add(descriptor)
        try:
            _sign(descriptor)
            yield descriptor
        finally:
            _held.discard(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def waiting(path: Path, why: str) -> Iterator[bool]:
    """Let one process at a time into the block; the others wait.

    The lock is the kernel's, on a file that stays, so one of a process that was killed is gone.

    Args:
        why: what is logged where there is somebody to wait for.

    Yields:
        Whether others are kept out; not where the system, or the file system, has no locks.

    Raises:
        OSError: the file can't be made or written to.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    _held.add(descriptor)
    try:
        yield _wait(descriptor, why)
    finally:
        _held.discard(descriptor)
        os.close(descriptor)


def _wait(descriptor: int, why: str) -> bool:
    try:
        import fcntl
    except ImportError:  # Windows
        return False
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logger.info("waiting: %s", why)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError as error:
        if error.errno not in WITHOUT_LOCKS:
            raise
        return False
    return True


def handed_down(descriptor: int) -> dict[str, str]:
    """Return the environment of a process that takes a lock over, with the descriptor."""
    return {**os.environ, INHERITED: str(descriptor)}


def _lock(descriptor: int, path: Path) -> int:
    """Return the descriptor that has the lock: this one, or one that a parent has locked."""
    try:
        import fcntl
    except ImportError:  # Windows
        return _without_lock(descriptor, path, "this system has no flock")
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        inherited = _inherited(descriptor)
        if inherited is None:
            raise ConfigError(
                f"{path.parent} is in use by another run ({_signature(descriptor)}): wait for it, "
                "end it, or choose another folder (train.output_dir=..., or --output)"
            ) from None
        os.close(descriptor)
        return inherited
    except OSError as error:
        if error.errno not in WITHOUT_LOCKS:
            raise
        return _without_lock(descriptor, path, f"its file system has no locks: {error.strerror}")
    return descriptor


def _without_lock(descriptor: int, path: Path, why: str) -> int:
    logger.warning("%s can't be kept from other runs: start none there (%s)", path.parent, why)
    return descriptor


def _inherited(descriptor: int) -> int | None:
    """Return the parent's descriptor of the same file, if that has the lock."""
    import fcntl

    try:
        theirs = int(os.environ.get(INHERITED, ""))
        if os.path.sameopenfile(theirs, descriptor):
            fcntl.flock(theirs, fcntl.LOCK_EX | fcntl.LOCK_NB)  # allowed to who has it
            os.set_inheritable(theirs, False)
            return theirs
    except (ValueError, OSError):
        pass
    return None


def _sign(descriptor: int) -> None:
    """Write into the lock who has it, unless the disk is full."""
    text = f"process {os.getpid()} on {socket.gethostname()}, since {time.strftime('%d %b %H:%M')}"
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, text.encode(), 0)
    except OSError:
        pass


def _signature(descriptor: int) -> str:
    return os.pread(descriptor, 200, 0).decode(errors="replace") or "which one is unknown"
