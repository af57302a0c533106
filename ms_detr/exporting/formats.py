"""The kinds of files that models are exported to, and how each is run."""

from __future__ import annotations

import importlib.util
import json
import os
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.export import ExportedProgram

from ..errors import ConfigError, MissingPackageError
from .interface import INPUTS

# Images and sizes to what the names of the outputs stand for.
Run = Callable[[np.ndarray, np.ndarray], dict[str, np.ndarray]]
FACTS = "metadata.json"  # in a file of torch.export


class Format(ABC):
    """A kind of file.

    Attributes:
        suffix: of its names.
        packages: what writing one needs.
    """

    suffix: str
    packages: tuple[str, ...] = ()

    def expect_packages(self, *more: str) -> None:
        """Raise MissingPackageError unless what is needed is installed."""
        needed = (*self.packages, *more)
        missing = [name for name in needed if importlib.util.find_spec(name) is None]
        if missing:
            names = " ".join(missing)
            raise MissingPackageError(
                f"this needs what isn't installed, {names}: python -m pip install {names}"
            )

    @abstractmethod
    def write(
        self,
        program: ExportedProgram,
        outputs: tuple[str, ...],
        facts: Mapping[str, Any],
        path: Path,
    ) -> None:
        """Write a graph, whose results have these names."""

    @abstractmethod
    def open(self, path: str | os.PathLike[str]) -> Run:
        """Return what computes a file, on the CPU, with as many threads as PyTorch has."""


class TorchExport(Format):
    """``.pt2`` of torch.export; it needs PyTorch, and torchvision for RoIAlign, but not ms_detr."""

    suffix = ".pt2"

    def write(
        self,
        program: ExportedProgram,
        outputs: tuple[str, ...],
        facts: Mapping[str, Any],
        path: Path,
    ) -> None:
        with path.open("wb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the file's name
            torch.export.save(program, file, extra_files={FACTS: json.dumps(facts)})

    def open(self, path: str | os.PathLike[str]) -> Run:
        facts = {FACTS: ""}
        module = torch.export.load(os.fspath(path), extra_files=facts).module()
        known = json.loads(facts[FACTS])
        names, least = known["outputs"], known["preprocessing"]["least_sides"]

        def run(images: np.ndarray, sizes: np.ndarray) -> dict[str, np.ndarray]:
            if images.shape[2] < least[0] or images.shape[3] < least[1]:
                raise ConfigError(
                    f"images of {images.shape[3]} x {images.shape[2]} pixels have to be padded to "
                    f"at least {least[1]} x {least[0]} for {os.fspath(path)}"
                )
            with torch.no_grad():
                found = module(torch.from_numpy(images), torch.from_numpy(sizes))
            return {name: x.numpy() for name, x in zip(names, found, strict=True)}

        return run


class Onnx(Format):
    """``.onnx``, in one file."""

    suffix = ".onnx"
    packages = ("onnx", "onnxscript")

    def write(
        self,
        program: ExportedProgram,
        outputs: tuple[str, ...],
        facts: Mapping[str, Any],
        path: Path,
    ) -> None:
        from .onnx_graph import onnx_model

        path.write_bytes(onnx_model(program, outputs, facts).SerializeToString())

    def open(self, path: str | os.PathLike[str]) -> Run:
        self.expect_packages("onnxruntime")
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3  # errors; it warns of what it doesn't make faster
        session = onnxruntime.InferenceSession(
            os.fspath(path), options, providers=["CPUExecutionProvider"]
        )
        names = [output.name for output in session.get_outputs()]

        def run(images: np.ndarray, sizes: np.ndarray) -> dict[str, np.ndarray]:
            found = session.run(names, dict(zip(INPUTS, (images, sizes), strict=True)))
            return dict(zip(names, found, strict=True))

        return run


FORMATS: dict[str, Format] = {"onnx": Onnx(), "torch-export": TorchExport()}


def format_of(name: str) -> Format:
    """Return a format by its name; a ConfigError where there is none."""
    if name not in FORMATS:
        raise ConfigError(f"there is no format '{name}'; choose from {', '.join(FORMATS)}")
    return FORMATS[name]
