"""What is left to do after a training: its report."""

from __future__ import annotations

import logging
import time
from pathlib import Path

from detectron2.utils import comm

from ..files import reason

logger = logging.getLogger(__name__)


def report(folder: Path) -> None:
    """Write the page of a run in the main process; a page isn't worth a training.

    What is in the way is logged, whatever it is, and ends nothing.
    """
    if not comm.is_main_process():
        return
    start = time.perf_counter()
    try:
        from ..report import write_report  # draws, which no other part of a training does

        file = write_report(folder)
    except Exception as error:
        logger.error(
            "no report of this run (%s); `ms-detr report %s` tries it again", reason(error), folder
        )
    else:
        logger.info("%s: this run on one page (%.1f s)", file, time.perf_counter() - start)
