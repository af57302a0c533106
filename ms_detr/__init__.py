"""MS-DETR: DETR with mixed supervision, on Detectron2.

Its door: `train` and `evaluate` what a config describes, `load_model` from a checkpoint, `predict`
on images; `Predictor` does both, and chooses. `train_on` trains on a folder of data of any form.
"""

import os
import warnings
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .engine import Predictor, evaluate, load_model, predict, train
    from .own_data import train_on

__version__ = "0.1.0"

__all__ = ["Predictor", "evaluate", "load_model", "predict", "train", "train_on"]

# Detectron2 and fvcore script a few functions when they are imported; nobody here can mend that.
warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated", FutureWarning)

# Detectron2 0.4 makes a folder's name of the ~ in it, and reads it once, when it is imported.
if "DETECTRON2_DATASETS" in os.environ:
    os.environ["DETECTRON2_DATASETS"] = os.path.expanduser(os.environ["DETECTRON2_DATASETS"])


def __getattr__(name: str) -> Any:
    """What needs torch is imported when it is asked for: the command line stays fast."""
    if name == "train_on":
        from .own_data import train_on

        return train_on
    if name in __all__:
        from . import engine

        return getattr(engine, name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
