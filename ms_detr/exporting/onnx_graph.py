"""From a graph of torch.export to ONNX."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch.export import ExportedProgram

from ..errors import ConfigError, shortened
from .interface import INPUTS
from .tracing import quiet

if TYPE_CHECKING:
    import onnx

OPSET = 18
LARGEST = 2**31  # bytes of a file


def onnx_model(
    program: ExportedProgram, outputs: tuple[str, ...], facts: Mapping[str, Any]
) -> onnx.ModelProto:
    """Return a graph as a model of ONNX, with named inputs, outputs and sizes, and metadata.

    Raises:
        ConfigError: ONNX has nothing for one of its operators, or the model is too large.
    """
    import onnx
    import torchvision

    table = {torch.ops.torchvision.roi_align.default: _roi_align}
    del torchvision  # its operators were wanted
    with quiet():
        try:
            made = torch.onnx.export(
                program,
                dynamo=True,
                opset_version=OPSET,
                input_names=list(INPUTS),
                output_names=list(outputs),
                custom_translation_table=table,
                verbose=False,
                optimize=False,
            )
        except torch.onnx.OnnxExporterError as error:
            raise ConfigError(f"the model can't be exported to ONNX: {_cause(error)}") from error
        model: onnx.ModelProto = made.model_proto
    if model.ByteSize() >= LARGEST:
        raise ConfigError("the model is larger than the 2 GiB of an ONNX file: take torch-export")
    _name_sizes(model)
    for node in (*model.graph.node, *(node for own in model.functions for node in own.node)):
        node.ClearField("metadata_props")  # how it was traced, larger than all the rest
    for key, value in facts.items():
        text = value if isinstance(value, str) else json.dumps(value)
        model.metadata_props.add(key=key, value=text)
    onnx.checker.check_model(model)
    return model


def _cause(error: BaseException) -> str:
    """The innermost error's first line."""
    while error.__cause__ is not None:
        error = error.__cause__
    return shortened(str(error).strip().partition("\n")[0], 300)


def _name_sizes(model: onnx.ModelProto) -> None:
    """Call sizes that vary by what they are, instead of as the tracer numbered them."""
    images, sizes = model.graph.input
    names = {0: "batch", 2: "height", 3: "width"}
    found = {
        size.dim_param: names[index]
        for index, size in enumerate(images.type.tensor_type.shape.dim)
        if size.dim_param
    }
    for value in (images, sizes, *model.graph.output, *model.graph.value_info):
        for size in value.type.tensor_type.shape.dim:
            if size.dim_param:
                text = re.sub(r"\w+", lambda word: found.get(word[0], word[0]), size.dim_param)
                size.dim_param = text
    for value in model.graph.output:
        size = value.type.tensor_type.shape.dim[1]
        if size.dim_param:
            size.dim_param = "objects"


def _roi_align(
    maps: Any,
    regions: Any,
    spatial_scale: float,
    height: int,
    width: int,
    sampling_ratio: int,
    aligned: bool,
) -> Any:
    """Torchvision's RoIAlign of regions (K, 5), whose first number is the image's."""
    from onnx import TensorProto
    from onnxscript import opset18 as op

    images = op.Cast(op.Squeeze(op.Slice(regions, [0], [1], [1]), [1]), to=TensorProto.INT64)
    return op.RoiAlign(
        maps,
        op.Slice(regions, [1], [5], [1]),
        images,
        coordinate_transformation_mode="half_pixel" if aligned else "output_half_pixel",
        output_height=height,
        output_width=width,
        sampling_ratio=sampling_ratio,
        spatial_scale=spatial_scale,
    )
