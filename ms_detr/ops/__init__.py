"""The operator of the project: multi-scale deformable attention.

``deformable_attention`` and ``fused_deformable_attention`` are the entries; the model never asks
which implementation runs. ``status()`` tells.
"""

from .build import OperatorStatus
from .deformable_attention import deformable_attention, fused_deformable_attention, status

__all__ = ["OperatorStatus", "deformable_attention", "fused_deformable_attention", "status"]
