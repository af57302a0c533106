"""Files of checkpoints: written whole, read without running code, compared with their checksums."""

from __future__ import annotations

import argparse
import logging
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError, ConfigError, MissingFileError, MissingPackageError
from ..files import atomic_path
from .pickles import SUFFIX as PICKLED
from .pickles import read_pickle
from .safetensors_file import SUFFIX, read_safetensors, write_safetensors

WRITTEN = ".pth"
CHUNK = 2**20  # bytes read at a time
RECORD = 500  # bytes of a record in an archive, beside its content
FOLDER = 0x10  # attribute of a record in an archive

logger = logging.getLogger(__name__)


def read_checkpoint(path: str | os.PathLike[str], mmap: bool = False) -> Any:
    """Read a ``.pth`` file onto the CPU, refusing anything but tensors and plain values.

    What the file holds is compared with its checksums, which torch.load leaves to others. A
    ``.safetensors`` file is read likewise, and a ``.pkl`` file of arrays; these have none.

    Args:
        mmap: leave tensors on the disk, unread and unchecked, for who wants what lies beside them.

    Raises:
        MissingFileError: there is no such file.
        CheckpointError: the file is damaged, can't be read, or needs unpickling, which could run
            code from it.
        MissingPackageError: a ``.safetensors`` file, and the library for it isn't there.
    """
    if not Path(path).is_file():
        raise MissingFileError(f"checkpoint {path} not found")
    if is_safetensors(path):
        return read_safetensors(path, tensors=not mmap)
    if Path(path).suffix.lower() == PICKLED:
        return {} if mmap else read_pickle(path)  # it knows nothing beside its weights
    mmap &= _check_sums(path, tensors=not mmap)
    try:
        # Published checkpoints hold their command line: a plain record, harmless to read.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except (RuntimeError, EOFError, OSError) as error:
        # The first sentence; the rest is about the reader's insides.
        reason = str(error).partition("\n")[0].partition(". ")[0] or "it is empty"
        raise CheckpointError(f"{path} can't be read, perhaps it is cut off: {reason}") from error
    except Exception as error:  # the unpickler raises whatever a foreign file leads it to
        if "unsupported global" not in str(error).lower():
            raise CheckpointError(f"{path} was not written by torch.save") from error
        raise CheckpointError(
            f"{path} holds more than tensors and plain values; reading it could run code from the "
            "file, so it is refused. If you trust it, load it with torch.load(..., "
            "weights_only=False), save its state_dict alone and give that file"
        ) from error


def read_facts(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return what lies beside the weights in a checkpoint of ours, as far as the file has it.

    That is ``classes``, ``datasets``, ``config``, ``version`` and ``images_a_step``.

    It is empty for a state dict alone, for files of others, and for what can't be read: whoever
    loads the weights says why.
    """
    try:
        content = read_checkpoint(path, mmap=True)
    except (MissingFileError, CheckpointError, MissingPackageError):
        return {}
    found = content if isinstance(content, dict) else {}
    if not all(isinstance(name, str) for name in found.get("classes") or []):
        raise CheckpointError(f"{path}: the names of its classes are no texts")
    kinds: dict[str, type] = {"classes": list, "datasets": dict, "config": dict, "version": str}
    kinds["images_a_step"] = int
    facts = {key: found[key] for key, kind in kinds.items() if isinstance(found.get(key), kind)}
    classes = facts.get("classes", [])
    if len(set(classes)) < len(classes):  # of earlier versions
        logger.warning(
            "%s: some of its classes have the same name, so they can't be matched by name; they "
            "are taken in the dataset's order",
            path,
        )
        del facts["classes"]
    return facts


def _check_sums(path: str | os.PathLike[str], tensors: bool) -> bool:
    """Return whether a file is an archive of records, as torch.save writes it today.

    Args:
        tensors: check the tensors' records, too, and not only those beside them.

    Raises:
        CheckpointError: a record isn't what its checksum was made of.
    """
    try:
        if not zipfile.is_zipfile(path):
            return False  # without checksums, or cut off, of which torch.load knows more
        with zipfile.ZipFile(path) as archive:
            records = archive.infolist()
            if any(record.CRC for record in records):  # torch.save can be told to leave them out
                for record in records:
                    if tensors or "/data/" not in record.filename:
                        _check_sum(archive, record)
    except Exception as error:  # zipfile raises whatever damaged bytes lead it to
        raise CheckpointError(
            f"{path} is damaged, it has changed since it was written: take another copy or an "
            f"earlier checkpoint ({' '.join(str(error).split())})"
        ) from error
    return True


def _check_sum(archive: zipfile.ZipFile, record: zipfile.ZipInfo) -> None:
    # What torch's reader believes and zipfile doesn't look at.
    stored = record.compress_type == zipfile.ZIP_STORED
    if (stored and record.compress_size != record.file_size) or record.external_attr & FOLDER:
        raise zipfile.BadZipFile(f"{record.filename} is said to be no plain file")
    with archive.open(record) as content:
        while content.read(CHUNK):  # it compares at the end
            pass


def write_checkpoint(path: str | os.PathLike[str], content: Any) -> None:
    """Write a ``.pth`` file, whole or not at all; :func:`read_checkpoint` finds out its damages.

    Raises:
        OSError: the system can't write there; names the file, and the space if that is why.
    """
    with atomic_path(path, _size(content)) as partial, partial.open("wb") as file:
        try:
            torch.save(content, file)
        except RuntimeError as error:
            # Once the file fails, torch complains about its own position in it.
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise


def is_safetensors(path: str | os.PathLike[str]) -> bool:
    """Whether a file is of that format, by the end of its name."""
    return Path(path).suffix.lower() == SUFFIX


def expect_new_weights(path: Path) -> None:
    """Make sure that a file can be written by `write_weights` and then be read.

    Raises:
        ConfigError: it is there already, or its name ends otherwise than those of either format.
    """
    if path.exists():
        raise ConfigError(f"{path} exists; choose another file or remove it")
    if path.suffix.lower() not in (WRITTEN, SUFFIX):
        raise ConfigError(f"{path} must end in {WRITTEN} or {SUFFIX}, the formats that are written")


def write_weights(path: Path, content: Mapping[str, Any]) -> None:
    """Write ``model`` and what lies beside it as ``.safetensors`` or ``.pth``, as the name ends.

    Raises:
        MissingPackageError: a ``.safetensors`` file, and the library for it isn't there.
        OSError: the system can't write there; names the file.
    """
    write = write_safetensors if is_safetensors(path) else write_checkpoint
    write(path, content)


def _size(content: Any) -> int:
    """Return the bytes of all tensors in nested containers, with what an archive adds to each.

    Memory that several tensors share counts once.
    """
    storages = {}
    nodes = [content]
    while nodes:
        node = nodes.pop()
        if isinstance(node, Tensor):
            storage = node.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes() + RECORD
        elif isinstance(node, Mapping):
            nodes.extend(node.values())
        elif isinstance(node, (list, tuple)):
            nodes.extend(node)
    return sum(storages.values())
