"""MS-DETR: DETR with mixed supervision, on Detectron2."""

import os
import warnings

__version__ = "0.1.0"

# Detectron2 and fvcore script a few functions when they are imported; nobody here can mend that.
warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated", FutureWarning)

# Detectron2 0.4 makes a folder's name of the ~ in it, and reads it once, when it is imported.
if "DETECTRON2_DATASETS" in os.environ:
    os.environ["DETECTRON2_DATASETS"] = os.path.expanduser(os.environ["DETECTRON2_DATASETS"])
