"""A run, or an evaluation, as one page of HTML."""

from .dataset import Images, evaluated_images
from .evaluation import Options, Study, study, write_study
from .page import write_report

__all__ = [
    "Images",
    "Options",
    "Study",
    "evaluated_images",
    "study",
    "write_report",
    "write_study",
]
