"""How setup.py compiles the operator: for the CPU with any compiler, for CUDA where a GPU is.

Environment: FORCE_CUDA=1 (the CUDA part must build, or the build fails), MS_DETR_BUILD_CUDA=1 (it
is built without a GPU too, where nvcc fits) or 0 (it is left out), TORCH_CUDA_ARCH_LIST, CUDA_HOME,
MAX_JOBS, MS_DETR_SANITIZE=address (`make asan`).
A part that can't be built is left out: everything runs without, slower, and
`ms_detr.ops.status()` tells the reason, which is kept in build_reasons.json.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from ms_detr.cuda_toolkit import ARCHITECTURES, find_cuda_home, why_no_toolkit

ROOT = Path(__file__).resolve().parent.parent
SOURCES = "ops/csrc"
PACKAGE = "ms_detr/ops"
NO_GPU = (
    "left out without a GPU; this compiles it all the same: "
    "FORCE_CUDA=1 pip install --no-build-isolation --no-deps -e ."
)


def why_no_cuda() -> str:
    """Why the CUDA part is left out; "" if it is built."""
    wish = os.environ.get("MS_DETR_BUILD_CUDA", "")
    if wish not in ("", "0", "1"):
        raise SystemExit(f"error: MS_DETR_BUILD_CUDA must be 0 or 1, got {wish!r}")
    if wish == "0":
        return "left out by MS_DETR_BUILD_CUDA=0"
    if reason := why_no_toolkit():
        return reason
    import torch

    # It takes minutes, and who has no GPU has no use for it.
    asked = wish == "1" or os.environ.get("FORCE_CUDA") == "1"
    return "" if asked or torch.cuda.is_available() else NO_GPU


def architectures() -> str:
    """What to compile CUDA for: the usual ones, and the GPU that is here."""
    import torch

    if not torch.cuda.is_available():
        return ARCHITECTURES
    here = "{}.{}".format(*torch.cuda.get_device_capability())
    return ARCHITECTURES if here in ARCHITECTURES else f"{here};{ARCHITECTURES}"


def sources(*folders: str, suffixes: tuple[str, ...] = (".cpp",)) -> list[str]:
    """The files to compile, relative to the root as setuptools wants them."""
    paths = [path for folder in folders for path in sorted((ROOT / SOURCES / folder).glob("*"))]
    return [path.relative_to(ROOT).as_posix() for path in paths if path.suffix in suffixes]


def headers() -> list[str]:
    """What all files may include: a change builds again."""
    found = sorted((ROOT / SOURCES).rglob("*.h")) + sorted((ROOT / SOURCES).rglob("*.cuh"))
    return [path.relative_to(ROOT).as_posix() for path in found]


def extensions() -> list:
    """The extension modules to be compiled here."""
    if (home := find_cuda_home()) is not None:  # torch reads it on import, and guesses worse
        os.environ["CUDA_HOME"] = str(home)
    os.environ.setdefault("TORCH_CUDA_ARCH_LIST", architectures())
    from torch.utils.cpp_extension import CppExtension, CUDAExtension

    flags = ["-O3", "-g0", "-Wall", "-Wno-psabi"]
    link = []
    if sys.platform == "linux":  # without this flag at::parallel_for is silently serial
        flags.append("-fopenmp")
        link.append("-fopenmp")
    if os.environ.get("MS_DETR_SANITIZE") == "address":
        flags += ["-fsanitize=address", "-fno-omit-frame-pointer", "-O1", "-g1"]
        link.append("-fsanitize=address")
    common: dict[str, Any] = {"depends": headers(), "extra_link_args": link}
    cpu = CppExtension(
        "ms_detr.ops._C", sources("", "cpu"), extra_compile_args={"cxx": flags}, **common
    )
    if why_no_cuda() and os.environ.get("FORCE_CUDA") != "1":
        return [cpu]
    cuda = CUDAExtension(
        "ms_detr.ops._C_cuda",
        sources("cuda", suffixes=(".cpp", ".cu")),
        extra_compile_args={"cxx": flags, "nvcc": ["-O3", "--expt-relaxed-constexpr"]},
        **common,
    )
    return [cpu, cuda]


def build_command() -> type:
    """The build_ext command: PyTorch's, but a part that fails does not stop the installation."""
    from torch.utils.cpp_extension import BuildExtension

    class BuildOperator(BuildExtension):
        def run(self) -> None:
            # setuptools changes `inplace` while it runs.
            self.into_source = self.inplace or getattr(self, "editable_mode", False)
            super().run()

        def build_extensions(self) -> None:
            self.reasons: dict[str, str] = {}
            names = [extension.name for extension in self.extensions]
            if "ms_detr.ops._C_cuda" not in names:
                self.reasons["cuda"] = why_no_cuda()
            try:
                super().build_extensions()
            except Exception as error:  # nothing could even be tried
                self._leave_out(self.extensions, error)
            self._tell()

        def build_extension(self, extension: Any) -> None:
            try:
                super().build_extension(extension)
            except Exception as error:
                self._leave_out([extension], error)

        def _leave_out(self, extensions: list, error: Exception) -> None:
            for extension in extensions:
                cuda = extension.name.endswith("_cuda")
                if cuda and os.environ.get("FORCE_CUDA") == "1":
                    raise error
                extension.optional = True  # setuptools does not look for its file
                reason = " ".join(str(error).split())
                self.reasons["cuda" if cuda else "cpu"] = (
                    f"the compiler failed, see the output of the build: {reason[:200]}"
                )

        def _tell(self) -> None:
            """Keep the reasons beside the package, and say once what is missing."""
            folder = ROOT / PACKAGE if self.into_source else Path(self.build_lib) / PACKAGE
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "build_reasons.json").write_text(json.dumps(self.reasons, indent=1) + "\n")
            for device, reason in self.reasons.items():
                name = "_C" if device == "cpu" else "_C_cuda"
                for stale in folder.glob(f"{name}.*"):  # of an earlier build
                    stale.unlink()
                print(f"ms_detr: no compiled operator for {device}: {reason}", file=sys.stderr)

    return BuildOperator
