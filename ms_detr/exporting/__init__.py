"""Models that leave PyTorch: as files of ONNX or torch.export, without our operator."""

from .comparison import Difference, compare
from .formats import FORMATS, Format
from .interface import Form
from .writing import export

__all__ = ["FORMATS", "Difference", "Form", "Format", "compare", "export"]
