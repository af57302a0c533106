"""Pages of HTML that need nothing else, and no network."""

from __future__ import annotations

import datetime
import math
import os
from pathlib import Path
from typing import Any

import jinja2

from .. import __version__
from ..errors import ConfigError
from ..evaluation.table import METRICS
from .inline import data_uri
from .matching import IOU
from .seen import TASKS, Results, Seen, classes, sizes


def template(name: str) -> jinja2.Template:
    """Return a page's template, which knows who writes it and when."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(__package__, "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": _number, "span": _span}
    environment.globals |= {
        "version": __version__,
        "now": datetime.datetime.now().astimezone().isoformat(" ", "minutes"),
    }
    return environment.get_template(name)


def render(page: str, results: Results, seen: Seen, **values: Any) -> str:
    """Fill a template in, which has the sections of ``measured.html`` among others."""
    return template(page).render(
        results=results,
        sizes=sizes(results),
        classes=classes(results, seen),
        seen=seen,
        iou=IOU,
        metrics=METRICS,
        tasks=[task for task in TASKS if task in results],
        **values,
    )


def expect_writable(folder: Path) -> None:
    """Raise ConfigError if a folder is there and nothing can be written into it."""
    if folder.is_dir() and not os.access(folder, os.W_OK):
        raise ConfigError(f"{folder} can't be written to: name another place, --output FILE")


def inlined(file: Path) -> str:
    """Return a PNG as a data URI."""
    return data_uri(file.read_bytes(), "png")


def _number(value: float, digits: int = 1) -> str:
    return "none" if math.isnan(value) else f"{value:.{digits}f}"


def _span(value: float) -> str:
    """A percentage as a length in CSS."""
    return "0" if math.isnan(value) else f"{min(max(value, 0.0), 100.0):.1f}%"
