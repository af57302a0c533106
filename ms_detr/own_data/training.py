"""Train on a folder of data, in the process that calls."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..config import load
from ..data.formats import Options
from ..engine import Origin, train
from .preparing import prepare
from .request import Request

logger = logging.getLogger(__name__)


def train_on(
    data: str | os.PathLike[str],
    config: str | None = None,
    overrides: Sequence[str] = (),
    *,
    split: Sequence[float] | None = None,
    form: str = "auto",
    options: Options | None = None,
    weights: str | None = None,
    resume: bool = False,
) -> Mapping[str, Any]:
    """Train on a folder of data of any form, as ``ms-detr train --data`` does.

    Args:
        data: a folder in COCO's form, VOC, YOLO, LabelMe or of mask images.
        config: a config; None takes one for the device and for boxes or masks.
        overrides: keys that are not to be chosen, such as ``train.epochs=20`` or
            ``train.output_dir=output/mine``.
        split: shares of train, or of train and val, in which images are divided anew.
        form: of the data, where it can't be told.
        options: which classes are kept, and how VOC's boxes and difficult objects are read.
        weights: of a detector, of which is taken what fits.
        resume: go on from the newest checkpoint.

    Returns:
        Results of the last evaluation, see `ms_detr.train`. In the run's folder, ``output/`` and
        the data's name unless ``train.output_dir`` says otherwise, ``config.py`` is the config.

    Raises:
        UserError: about an argument, the data or the weights, by its kind.
    """
    request = Request(Path(data), split, form, options=options or Options())
    prepared = prepare(request, config, overrides, weights=weights, resume=resume)
    logger.info("%s", "\n".join(prepared.lines))
    origin = Origin(prepared.config, prepared.overrides)
    return train(load(prepared.config, prepared.overrides), resume, origin)
