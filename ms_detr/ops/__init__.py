"""The operator of the project: multi-scale deformable attention.

``deformable_attention`` is the one entry; the model never asks which implementation runs.
"""

from .deformable_attention import deformable_attention
from .status import OperatorStatus, status

__all__ = ["OperatorStatus", "deformable_attention", "status"]
