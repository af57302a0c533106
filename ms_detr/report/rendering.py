"""Pages of HTML that need nothing else, and no network."""

from __future__ import annotations

import base64
import datetime
import math
import os
from pathlib import Path
from typing import Any

import jinja2

from .. import __version__
from ..errors import ConfigError
from ..evaluation.table import METRICS
from .matching import IOU
from .seen import TASKS, Results, Seen, classes, sizes


def render(template: str, results: Results, seen: Seen, **values: Any) -> str:
    """Fill a template in, which has the sections of ``measured.html`` among others."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(__package__, "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": _number, "span": _span}
    return environment.get_template(template).render(
        results=results,
        sizes=sizes(results),
        classes=classes(results, seen),
        seen=seen,
        iou=IOU,
        metrics=METRICS,
        tasks=[task for task in TASKS if task in results],
        version=__version__,
        now=datetime.datetime.now().astimezone().isoformat(" ", "minutes"),
        **values,
    )


def expect_writable(folder: Path) -> None:
    """Raise ConfigError if a folder is there and nothing can be written into it."""
    if folder.is_dir() and not os.access(folder, os.W_OK):
        raise ConfigError(f"{folder} can't be written to: name another place, --output FILE")


def inlined(file: Path) -> str:
    """Return a PNG as a data URI."""
    return f"data:image/png;base64,{base64.b64encode(file.read_bytes()).decode()}"


def _number(value: float, digits: int = 1) -> str:
    return "none" if math.isnan(value) else f"{value:.{digits}f}"


def _span(value: float) -> str:
    """A percentage as a length in CSS."""
    return "0" if math.isnan(value) else f"{min(max(value, 0.0), 100.0):.1f}%"
