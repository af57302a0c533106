"""Make an installable Detectron2 of the one build that the package index offers.

The package index doesn't offer Detectron2 under its name. The build that it does offer is tagged
for Windows, but its Python files are those of upstream's commit 6700d784 (2021-06-08), line ends
aside. So its compiled extension is left out, detectron2_extension.py takes its place, and EDITS
adapts a few lines to today's libraries. detectron2_setup.py is the command that uses this.
"""

import base64
import csv
import hashlib
import re
import shutil
import subprocess
import zipfile
from pathlib import Path, PurePosixPath

INSTALL_GUIDE = "https://detectron2.readthedocs.io/en/latest/tutorials/install.html"

BUILD = "geoai-detectron2==0.4"
BUILD_SHA256 = "6eb280a50dbc3536caa9dc73229dfbbe0bda4fea6692c17803584dda680fad8d"
BUILD_TAGS = ["--platform=win_amd64", "--python-version=3.7", "--implementation=cp", "--abi=cp37m"]
BUILD_INFO = "geoai_detectron2-0.4.dist-info"

# The number after "msdetr" counts this tool's changes: a smaller one is replaced by `install`.
VERSION = "0.4+msdetr.1"
INFO = f"detectron2-{VERSION}.dist-info"
MARKER = "INSTALLED_BY_MS_DETR.txt"
EXTENSION = Path(__file__).with_name("detectron2_extension.py")

# Pattern, replacement, and how often it must match in which file. Any other count is an error.
EDITS: tuple[tuple[str, str, dict[str, int]], ...] = (
    (r"\bImage\.LINEAR\b", "Image.BILINEAR", {"data/transforms/transform.py": 1}),
    (
        r"\bnp\.(bool|float|int|str)\b",
        r"\1",
        {
            "data/build.py": 2,
            "data/datasets/pascal_voc.py": 1,
            "evaluation/pascal_voc_evaluation.py": 2,
            "evaluation/sem_seg_evaluation.py": 7,
            "structures/masks.py": 2,
            "utils/video_visualizer.py": 1,
            "utils/visualizer.py": 3,
        },
    ),
    (
        r"(?m)^import pkg_resources$",
        "from importlib.resources import files",
        {"model_zoo/model_zoo.py": 1},
    ),
    (
        r"pkg_resources\.resource_filename\(\s*"
        r'"detectron2\.model_zoo", os\.path\.join\("configs", config_path\)\s*\)',
        'str(files("detectron2.model_zoo") / "configs" / config_path)',
        {"model_zoo/model_zoo.py": 1},
    ),
)

# What the installed Python code imports. OpenCV, which PointRend and drawing need, isn't listed:
# it goes by several names on the index, and any of them will do.
REQUIRES = (
    "cloudpickle",
    "fvcore",
    "hydra-core",
    "iopath",
    "matplotlib",
    "numpy",
    "omegaconf",
    "pillow",
    "pycocotools",
    "PyYAML",
    "tabulate",
    "tensorboard",
    "termcolor",
    "torch",
    "torchvision",
    "tqdm",
    "yacs",
)


ORIGIN = f"""\
tools/detectron2_setup.py of ms_detr installed this Detectron2, without its compiled extension.
Source:  {BUILD} of the package index, sha256 {BUILD_SHA256}
         Its Python files are those of https://github.com/facebookresearch/detectron2
         at commit 6700d784 (2021-06-08), line ends aside.
Changed: line ends; _C.py was added; what EDITS in tools/detectron2_build.py lists.
Remove:  python tools/detectron2_setup.py uninstall, or pip uninstall detectron2
"""


class SetupError(Exception):
    """Something that the user has to decide or mend; its message says what and how."""


def stage_build(stage: Path, wheel: Path | None, python: str) -> None:
    """Prepare `detectron2/` and its dist-info in the folder `stage`, ready to be moved.

    Args:
        stage: a folder for this alone.
        wheel: the build, if it is there already; None downloads it.
        python: the interpreter whose pip downloads.
    """
    wheel = wheel or download(stage / "download", python)
    check_hash(wheel)
    unpack(wheel, stage)
    apply_edits(stage / "detectron2")
    shutil.copyfile(EXTENSION, stage / "detectron2" / "_C.py")
    write_metadata(stage)


def download(folder: Path, python: str) -> Path:
    """Fetch the build with pip, which checks the hash too, and return the wheel's path."""
    folder.mkdir(parents=True)
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{BUILD} --hash=sha256:{BUILD_SHA256}\n", encoding="utf-8")
    command = [python, "-m", "pip", "download", "--disable-pip-version-check", "--quiet"]
    command += ["--require-hashes", "--no-deps", "--only-binary=:all:", *BUILD_TAGS]
    command += ["--dest", str(folder), "--requirement", str(requirements)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(folder.glob("*.whl"))
    if result.returncode or len(wheels) != 1:
        raise SetupError(
            f"pip could not download {BUILD}:\n{result.stderr.strip() or result.stdout.strip()}\n"
            f"Run this again when the package index can be reached, pass the file by hand "
            f"(--wheel FILE), or install Detectron2 yourself: {INSTALL_GUIDE}"
        )
    return wheels[0]


def check_hash(wheel: Path) -> None:
    """Refuse a file that isn't the build that this tool knows, bit by bit."""
    if not wheel.is_file():
        raise SetupError(f"{wheel} is not a file.")
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if digest != BUILD_SHA256:
        raise SetupError(
            f"{wheel} was refused: its sha256 is {digest}, expected {BUILD_SHA256}. "
            f"Delete it and get {BUILD} from the package index."
        )


def unpack(wheel: Path, stage: Path) -> None:
    """Write the wheel's text files, with Unix line ends, and its licence; skip the Windows code."""
    targets = {f"{BUILD_INFO}/LICENSE": f"{INFO}/LICENSE"}
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            path = PurePosixPath(name)
            if path.is_absolute() or ".." in path.parts or re.search(r"[\\:]", name):
                raise SetupError(f"{wheel} was refused: it holds the unsafe path {name!r}.")
            if path.parts[0] not in ("detectron2", BUILD_INFO):
                raise SetupError(f"{wheel} was refused: it holds the unexpected file {name!r}.")
            if path.parts[0] == BUILD_INFO and name not in targets:
                continue
            if name.endswith("/") or path.suffix == ".pyd":
                continue
            target = stage / targets.get(name, name)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(archive.read(name).replace(b"\r\n", b"\n"))


def apply_edits(package: Path) -> None:
    """Adapt the unpacked code; a match too many or too few, in any file, is an error."""
    sources = {
        path.relative_to(package).as_posix(): path.read_text(encoding="utf-8")
        for path in sorted(package.rglob("*.py"))
    }
    for pattern, replacement, expected in EDITS:
        counts = {}
        for name, text in sources.items():
            sources[name], count = re.subn(pattern, replacement, text)
            if count:
                counts[name] = count
        if counts != expected:
            raise SetupError(
                f"The edit {pattern!r} matched {counts}, expected {expected}. "
                f"This tool and the build of Detectron2 don't fit each other; nothing was changed."
            )
    for name, text in sources.items():
        (package / name).write_text(text, encoding="utf-8", newline="\n")


def write_metadata(stage: Path) -> None:
    """Write the origin note and the dist-info, so that pip can list, check and uninstall it."""
    (stage / "detectron2" / MARKER).write_text(ORIGIN, encoding="utf-8", newline="\n")
    info = stage / INFO
    files = {
        "METADATA": "Metadata-Version: 2.1\n"
        "Name: detectron2\n"
        f"Version: {VERSION}\n"
        "Summary: Detectron2's Python code, without its compiled extension\n"
        "Home-page: https://github.com/facebookresearch/detectron2\n"
        "Author: FAIR\n"
        "License: Apache-2.0\n" + "".join(f"Requires-Dist: {name}\n" for name in REQUIRES),
        "WHEEL": "Wheel-Version: 1.0\n"
        "Generator: ms_detr\n"
        "Root-Is-Purelib: true\n"
        "Tag: py3-none-any\n",
        "INSTALLER": "ms_detr\n",
        "top_level.txt": "detectron2\n",
    }
    for name, text in files.items():
        (info / name).write_text(text, encoding="utf-8", newline="\n")
    record = info / "RECORD"
    paths = sorted(path for root in (stage / "detectron2", info) for path in root.rglob("*"))
    with record.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        for path in paths:
            if path.is_file():
                name = path.relative_to(stage).as_posix()
                writer.writerow([name, file_digest(path), path.stat().st_size])
        writer.writerow([f"{INFO}/RECORD", "", ""])


def file_digest(path: Path) -> str:
    """A file's hash as RECORD writes it: sha256=, urlsafe base64 without padding."""
    digest = hashlib.sha256(path.read_bytes()).digest()
    return "sha256=" + base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
