"""MS-DETR: DETR with mixed supervision, on Detectron2."""

import warnings

__version__ = "0.1.0"

# Detectron2 and fvcore script a few functions when they are imported; nobody here can mend that.
warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated", FutureWarning)
