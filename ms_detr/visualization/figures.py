"""Figures of numbers, as files."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from ..files import atomic_path
from .fonts import fit_fonts


def save(figure: Figure, file: Path) -> Path:
    """Write a figure in the format of the file's suffix, PNG without one, and return the file."""
    fit_fonts(figure)
    with atomic_path(file) as path:
        figure.savefig(path, dpi=120, format=file.suffix[1:] or "png")
    return file
