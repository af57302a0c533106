"""State dicts of published implementations, to ours and back.

Strict both ways: every tensor of the source is used, is a known copy of one that is, or is named in
an error.
"""

from .layouts import LAYOUTS, Layout, recognise
from .rules import DENOISING_LABELS
from .state_dicts import COCO_IDS, convert_state_dict, revert_state_dict

__all__ = [
    "COCO_IDS",
    "DENOISING_LABELS",
    "LAYOUTS",
    "Layout",
    "convert_state_dict",
    "recognise",
    "revert_state_dict",
]
