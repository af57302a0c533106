"""Stands in for Detectron2's compiled extension where only its Python code is installed.

Everything that doesn't need a compiled operator works. What does need one says so when it is
called: rotated boxes, Detectron2's own deformable convolution and its fast COCO evaluation.
"""

from typing import NoReturn

import torch
from torch import Tensor

_ADVICE = (
    "needs Detectron2's compiled extension, but only its Python code is installed here. "
    "Install Detectron2 from source: "
    "https://detectron2.readthedocs.io/en/latest/tutorials/install.html"
)

# Detectron2 looks these two operators up when it is imported, so they have to exist.
_library = torch.library.Library("detectron2", "DEF")
_library.define("nms_rotated(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
_library.define("box_iou_rotated(Tensor boxes1, Tensor boxes2) -> Tensor")


def _missing_nms_rotated(dets: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    raise RuntimeError(f"nms_rotated {_ADVICE}")


def _missing_box_iou_rotated(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    raise RuntimeError(f"box_iou_rotated {_ADVICE}")


_library.impl("nms_rotated", _missing_nms_rotated, "CompositeImplicitAutograd")
_library.impl("box_iou_rotated", _missing_box_iou_rotated, "CompositeImplicitAutograd")


def get_compiler_version() -> str:
    """What Detectron2's environment report prints."""
    return "not compiled"


def get_cuda_version() -> str:
    """What Detectron2's environment report prints."""
    return "not compiled"


def has_cuda() -> bool:
    """Keeps the environment report from reading CUDA architectures out of this file."""
    return False


def __getattr__(name: str) -> NoReturn:
    # AttributeError, so that hasattr() tells what the extension can do.
    raise AttributeError(f"detectron2._C.{name} {_ADVICE}")
