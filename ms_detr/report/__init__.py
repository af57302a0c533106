"""A run as one page of HTML."""

from .page import write_report

__all__ = ["write_report"]
