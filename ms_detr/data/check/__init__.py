"""What is wrong with a dataset: all of it, in one pass; and a mended copy."""

from .checking import Checked, Located, check_dataset, locate
from .findings import Finding, Group, Kind
from .limits import Limits, limits_of
from .mending import Mended, write_mended
from .statistics import Histogram, Split, Statistics

__all__ = [
    "Checked",
    "Finding",
    "Group",
    "Histogram",
    "Kind",
    "Limits",
    "Located",
    "Mended",
    "Split",
    "Statistics",
    "check_dataset",
    "limits_of",
    "locate",
    "write_mended",
]
