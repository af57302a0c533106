"""Where the CUDA toolkit is, and whether it fits PyTorch. The build reads this: plain Python."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

ARCHITECTURES = "8.0;9.0+PTX"  # what is compiled for where nobody says


def find_cuda_home() -> Path | None:
    """The CUDA toolkit: where the environment says, in the usual place, or above nvcc's folder."""
    candidates = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda"]
    if nvcc := shutil.which("nvcc"):
        candidates.append(str(Path(nvcc).resolve().parent.parent))
    for candidate in candidates:
        if candidate and (Path(candidate) / "bin" / "nvcc").is_file():
            return Path(candidate)
    return None


def why_no_toolkit() -> str:
    """Why nothing can be compiled for CUDA here; "" if it can."""
    import torch

    if torch.version.cuda is None:
        return "the installed PyTorch has no CUDA"
    home = find_cuda_home()
    if home is None:
        return "no CUDA toolkit (nvcc) was found"
    command = [str(home / "bin" / "nvcc"), "--version"]
    try:
        text = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    except OSError:
        text = ""
    found = re.search(r"release (\d+)\.(\d+)", text)
    if found is None:
        return f"{command[0]} does not run"
    if found[1] != torch.version.cuda.split(".")[0]:
        return f"nvcc is {found[1]}.{found[2]}, PyTorch was built with CUDA {torch.version.cuda}"
    return ""
