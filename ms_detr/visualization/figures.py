"""Figures of numbers, as files."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from ..errors import ConfigError
from ..files import atomic_path
from .fonts import fit_fonts


def save(figure: Figure, file: Path) -> Path:
    """Write a figure in the format of the file's suffix, PNG without one, and return the file.

    Raises:
        ConfigError: there is no such format.
    """
    kind = file.suffix[1:].lower() or "png"
    if kind not in (known := figure.canvas.get_supported_filetypes()):
        raise ConfigError(f"{file}: pictures end in {', '.join(known)}, not in {kind}")
    fit_fonts(figure)
    with atomic_path(file) as path:
        figure.savefig(path, dpi=120, format=kind)
    return file
