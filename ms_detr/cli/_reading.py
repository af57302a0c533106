"""How a dataset is read that isn't of COCO's form: arguments that several verbs have."""

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ._arguments import Words

if TYPE_CHECKING:
    from ms_detr.data.formats import Options


def add_classes_argument(add: Callable[..., Any]) -> None:
    """Add ``--classes``."""
    add("--classes", action=Words, metavar="NAME",
        help="keep these, numbered from 1 in this order")  # fmt: skip


def add_voc_arguments(add: Callable[..., Any]) -> None:
    """Add ``--voc-boxes`` and ``--difficult``, None where they aren't given."""
    add("--voc-boxes", choices=("auto", "one-based", "zero-based", "edges"),
        help="what the numbers of VOC's boxes are: first and last pixel from 1 (the devkit's) or "
        "from 0, or edges; auto (default): one-based, or edges if a box begins at 0")  # fmt: skip
    add("--difficult", choices=("crowd", "keep", "drop"),
        help="VOC's difficult objects become crowds, which neither training nor evaluation counts "
        "(default), or are kept as others, or are left out")  # fmt: skip


def options_of(args: argparse.Namespace) -> "Options":
    """What was given of these arguments."""
    from ms_detr.data.formats import Options

    names = ("classes", "voc_boxes", "difficult")
    given = {name: getattr(args, name, None) for name in names}
    return Options(**{name: value for name, value in given.items() if value is not None})
