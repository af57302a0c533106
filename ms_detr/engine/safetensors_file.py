"""``.safetensors`` files: weights, and beside them what a checkpoint of ours knows of them."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from torch import Tensor

from ..errors import CheckpointError, MissingPackageError
from ..files import atomic_path

SUFFIX = ".safetensors"
# What is kept of a checkpoint beside its weights, as JSON in the file's metadata.
FACTS: dict[str, type] = {"classes": list, "config": dict, "version": str}
START = "ms_detr."  # of our names in the metadata
SHARED = f"{START}shared"  # name -> the name of the same tensor, which the format holds once


def write_safetensors(path: str | os.PathLike[str], content: Mapping[str, Any]) -> None:
    """Write weights as ``.safetensors``, whole or not at all.

    Args:
        content: as of a checkpoint: the state dict ``model``, and of the rest `FACTS`.

    Raises:
        MissingPackageError: the library isn't there.
        OSError: the system can't write there; names the file.
    """
    library = _library(path)
    tensors, shared = _each_once(content["model"])
    facts = {f"{START}{name}": json.dumps(content[name]) for name in FACTS if name in content}
    metadata = {"format": "pt", **facts, SHARED: json.dumps(shared)}
    data = library.torch.save(tensors, metadata)
    with atomic_path(path, len(data)) as partial:
        partial.write_bytes(data)


def read_safetensors(path: str | os.PathLike[str], tensors: bool = True) -> dict[str, Any]:
    """Read a ``.safetensors`` file onto the CPU, ours or another's.

    Args:
        tensors: read them; without, only what lies beside them.

    Returns:
        As of a checkpoint: the state dict ``model``, in which names of one tensor have one again,
        and those of `FACTS` that the file has.

    Raises:
        MissingPackageError: the library isn't there.
        CheckpointError: it can't be read.
    """
    library = _library(path)
    try:
        with library.safe_open(str(path), framework="pt", device="cpu") as file:
            metadata = file.metadata() or {}
            names = file.keys()
            model = {name: file.get_tensor(name) for name in names} if tensors else {}
    except library.SafetensorError as error:
        raise CheckpointError(f"{path} can't be read as safetensors: {error}") from error
    for name, original in _read(metadata, SHARED, dict, path).items():
        if tensors and str(original) not in model:
            raise CheckpointError(f"{path} is damaged: {name} is said to be {original}")
        model.update({name: model[str(original)]} if tensors else {})
    facts = {
        name: _read(metadata, f"{START}{name}", kind, path)
        for name, kind in FACTS.items()
        if f"{START}{name}" in metadata
    }
    return {"model": model, **facts}


def _each_once(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors as the format wants them, and the names of those that are there already."""
    names: dict[tuple[Any, ...], str] = {}
    storages: set[int] = set()
    tensors: dict[str, Tensor] = {}
    shared: dict[str, str] = {}
    for name, tensor in state.items():
        place = (tensor.data_ptr() or id(tensor), tensor.dtype, tensor.shape, tensor.stride())
        original = names.setdefault(place, name)
        if original != name:
            shared[name] = original
            continue
        storage = tensor.untyped_storage()
        whole = tensor.is_contiguous() and storage.nbytes() == tensor.nbytes
        alone = storage.data_ptr() not in storages
        tensors[name] = tensor.detach() if whole and alone else tensor.detach().clone().contiguous()
        storages.add(storage.data_ptr())
    return tensors, shared


def _read(metadata: Mapping[str, str], key: str, kind: type, path: object) -> Any:
    """Parse an entry of the metadata; an empty one where there is none."""
    if key not in metadata:
        return kind()
    try:
        value = json.loads(metadata[key])
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged: its {key} can't be read") from error
    if not isinstance(value, kind):
        raise CheckpointError(f"{path} is damaged: its {key} is no {kind.__name__}")
    return value


def _library(path: object) -> ModuleType:
    try:
        import safetensors
        import safetensors.torch
    except ImportError as error:
        raise MissingPackageError(
            f"{path} needs the library safetensors: python -m pip install safetensors"
        ) from error
    return safetensors
