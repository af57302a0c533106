"""Groups of two real processes."""

import os
from datetime import timedelta

from ms_detr.engine.spawn import Group


def gloo(meeting: str | os.PathLike[str]) -> Group:
    """A group of two processes of this machine, which meet in a file."""
    return Group("gloo", f"file://{meeting}", 2, 2, timedelta(seconds=120))
