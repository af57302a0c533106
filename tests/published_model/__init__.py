"""The published MS-DETR and its baselines, slowly, from a checkpoint's own names.

Plain functions over a state dict as the authors save it, written from a description of their code
and without this project's modules: what `tests/test_parity.py` measures the project with.
Boxes are (cx, cy, w, h) in fractions of the unpadded image; a mask is True in padding.
Implementations (b) and (d) and one-stage MS-DETR, which were never released or crash, are what the
paper says of them put together from the parts that were.
"""

from .options import Options
from .supervision import TOP_K, losses
from .transformer import predict

__all__ = ["TOP_K", "Options", "losses", "predict"]
