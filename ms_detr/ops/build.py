"""What was compiled, what is in use, and why not where it isn't."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import torch

from ..errors import ConfigError

FOLDER = Path(__file__).parent
BUILD_COMMAND = "pip install --no-build-isolation --no-deps -e ."
# Device and module; the first one holds the schemas, so the other needs it.
LIBRARIES = {"cpu": "_C", "cuda": "_C_cuda"}
OPERATORS = (
    "cpu_instruction_set",
    "deformable_attention",
    "deformable_attention_backward",
    "fused_deformable_attention",
    "fused_deformable_attention_backward",
)
# Written by the build: {device: why it wasn't compiled}.
REASONS = FOLDER / "build_reasons.json"


@dataclass(frozen=True)
class OperatorStatus:
    """Which kernels are in use.

    Attributes:
        devices: those with a compiled kernel; all others run the pure-torch one.
        reasons: for "cpu" and "cuda" without one: why.
        instruction_set: of the CPU kernel; "" without one.
        build_command: compiles the kernels, from the root of a checkout.
    """

    devices: tuple[str, ...]
    reasons: dict[str, str]
    instruction_set: str
    build_command: str = BUILD_COMMAND

    @property
    def compiled(self) -> bool:
        """Whether there is any compiled kernel."""
        return bool(self.devices)

    @property
    def reason(self) -> str:
        """Why kernels are missing; "" if none is."""
        return "; ".join(f"{device}: {reason}" for device, reason in self.reasons.items())


def load_libraries() -> OperatorStatus:
    """Load what was compiled; a library that can't be loaded gives a reason, not an error.

    Raises:
        ConfigError: MS_DETR_CPU names no instruction set.
    """
    reasons: dict[str, str] = {}
    for device, module in LIBRARIES.items():
        if device != "cpu" and "cpu" in reasons:
            reasons[device] = "needs the compiled CPU operator"
        elif reason := _load(device, module):
            reasons[device] = reason
    devices = tuple(device for device in LIBRARIES if device not in reasons)
    try:
        isa = torch.ops.ms_detr.cpu_instruction_set() if "cpu" in devices else ""
    except ValueError as error:
        raise ConfigError(f"{error} (unset it for the best one)") from error
    return OperatorStatus(devices, reasons, isa)


def _load(device: str, module: str) -> str:
    """Load one library; why not, or ""."""
    paths = (FOLDER / f"{module}{suffix}" for suffix in EXTENSION_SUFFIXES)
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        try:
            return json.loads(REASONS.read_text(encoding="utf-8"))[device]
        except (OSError, ValueError, KeyError):
            return "was not compiled"
    try:
        torch.ops.load_library(str(path))
    except (OSError, RuntimeError) as error:
        message = str(error).splitlines()[0]
        return f"was compiled for another PyTorch or machine, build it again ({message})"
    if not all(hasattr(torch.ops.ms_detr, name) for name in OPERATORS):
        return "was compiled from an older ms_detr, build it again"
    return ""
