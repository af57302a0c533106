"""From a detector to a graph of plain operators, by torch.export."""

from __future__ import annotations

import io
import logging
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from typing import Any

import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram

from ..engine.out_of_memory import advised
from ..errors import ConfigError, shortened
from ..ops.plain import PlainOperators
from .interface import INPUTS, Exported, Form

# What the graph is traced with; nothing is computed. No size is 1 on any map, and none is another.
EXAMPLE = (2, 523, 709)
PLAIN = ("aten", "prims", "_operator", "torchvision::roi_align")


def trace(exported: Exported) -> ExportedProgram:
    """Return the graph of a detector, its operators decomposed.

    Raises:
        ConfigError: a part of the model can't be traced; the message names it.
    """
    form = exported.form
    inputs = _example(exported)
    try:
        with quiet(), torch.no_grad(), PlainOperators(form.gather):
            program = torch.export.export(exported, inputs, dynamic_shapes=_shapes(form))
    except Exception as error:  # whatever tracing leads a module to
        raise ConfigError(_reason(error, exported)) from error
    _expect_plain(program)
    for node in program.graph.nodes:  # where the files of this machine lie is nobody's business
        node.meta.pop("stack_trace", None)
    return program


def _example(exported: Exported) -> tuple[Tensor, Tensor]:
    form = exported.form
    batch = form.batch or EXAMPLE[0]
    size = form.size or EXAMPLE[1:]
    with advised("it is traced with images; choose a smaller --batch or --size"):
        images = torch.zeros(batch, 3, *size, dtype=exported.inputs.dtype)
    return images, torch.tensor([size] * batch)


def _shapes(form: Form) -> tuple[dict[int, Any], dict[int, Any]]:
    """Which sizes of the inputs may differ from call to call."""
    batch = {} if form.batch else {0: Dim.DYNAMIC}
    sides = {} if form.size else {2: Dim.DYNAMIC, 3: Dim.DYNAMIC}
    return batch | sides, batch


def least_sides(program: ExportedProgram) -> list[int]:
    """Return the least height and width of images, for which the graph holds."""
    (images,) = [node for node in program.graph.nodes if node.name == INPUTS[0]]
    found = []
    for size in images.meta["val"].shape[2:]:
        if isinstance(size, torch.SymInt):
            size = program.range_constraints[size.node.expr].lower
        found.append(int(size))
    return found


@contextmanager
def quiet() -> Iterator[None]:
    """In the block tracers and converters tell nothing about themselves; errors are raised."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _reason(error: Exception, exported: Exported) -> str:
    """Say which part of the model can't be traced, and why."""
    names = {id(part): name for name, part in exported.named_modules() if name}
    owners = [
        frame.f_locals.get("self")
        for one in _chain(error)
        for frame, _ in traceback.walk_tb(one.__traceback__)
    ]
    parts = [names[id(owner)] for owner in owners if id(owner) in names]
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    why = shortened(" ".join(lines[:2]) or type(error).__name__, 300)
    fixed = "" if exported.form.size else "; perhaps it can with fixed sizes (--batch, --size)"
    return f"{parts[-1] if parts else 'the model'} can't be exported: {why}{fixed}"


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error and what led to it."""
    found: BaseException | None = error
    while found is not None:
        yield found
        found = found.__cause__ or found.__context__


def _expect_plain(program: ExportedProgram) -> None:
    """Raise ConfigError where an operator is left that only a library beside PyTorch knows."""
    for node in program.graph.nodes:
        if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
            continue
        name = node.target.name()
        if not name.startswith(PLAIN):
            stack = list((node.meta.get("nn_module_stack") or {}).values())
            part = stack[-1][0] if stack else "the model"
            raise ConfigError(f"{part} can't be exported: nothing stands for its operator {name}")
