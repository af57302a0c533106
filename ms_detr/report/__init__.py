"""A run, or a dataset, as one page of HTML."""

from .page import write_report
from .sheet import write_sheet

__all__ = ["write_report", "write_sheet"]
