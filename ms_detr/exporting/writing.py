"""A trained model to a file that runs without ms_detr."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from pathlib import Path

from ..engine import load_model
from ..engine.prediction import usage_of
from ..errors import ConfigError
from ..files import atomic_path
from ..meta_arch import GeneralizedDETR
from .facts import facts_of
from .formats import format_of
from .interface import Exported, Form
from .tracing import least_sides, trace


def export(
    weights: str | os.PathLike[str] | GeneralizedDETR,
    output: str | os.PathLike[str],
    format: str = "onnx",
    form: Form = Form(),  # noqa: B008 (frozen)
    say: Callable[[str], None] = lambda _: None,
) -> Path:
    """Write a trained model as a file of ONNX or torch.export, for the CPU and in float32.

    Args:
        weights: a checkpoint that keeps its config, or what `ms_detr.load_model` returned, which
            stays as it is.
        output: the file; it mustn't be there yet.
        format: ``onnx`` or ``torch-export``.
        form: what the file takes and gives.
        say: told what is being done.

    Returns:
        The file, which is whole or not there.

    Raises:
        ConfigError: the file is there already or called otherwise than its kind is; the model can't
            be exported, whose part the message names; and see `load_model`.
        MissingPackageError: a package for the format isn't installed.
        OSError: the system can't write there.
    """
    kind = format_of(format)
    path = Path(output)
    expect_new(path, kind.suffix)
    kind.expect_packages()
    model = weights if isinstance(weights, GeneralizedDETR) else load_model(weights)
    usage = usage_of(model, None)
    exported = Exported(plain_copy(model), form, usage.mapper.image_format).eval()
    say("tracing the model")
    program = trace(exported)
    say(f"writing {path}")
    facts = facts_of(exported, least_sides(program))
    with atomic_path(path) as partial:
        kind.write(program, exported.outputs.names, facts, partial)
    return path


def plain_copy(model: GeneralizedDETR) -> GeneralizedDETR:
    """Return a copy on the CPU, in float32 and in evaluation mode."""
    return copy.deepcopy(model).cpu().float().eval()


def expect_new(path: Path, suffix: str) -> None:
    """Raise ConfigError where a file is there already, or isn't called as its kind is."""
    if path.exists():
        raise ConfigError(f"{path} exists; choose another file or remove it")
    if path.suffix.lower() != suffix:
        raise ConfigError(f"{path} must end in {suffix}, as files of its format do")
