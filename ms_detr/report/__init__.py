"""A run, an evaluation, or a dataset, as one page of HTML."""

from .dataset import Images, detection_limit, evaluated_images
from .evaluation import Options, Study, study, write_study
from .page import write_report
from .sheet import write_sheet

__all__ = [
    "Images",
    "Options",
    "Study",
    "detection_limit",
    "evaluated_images",
    "study",
    "write_report",
    "write_sheet",
    "write_study",
]
