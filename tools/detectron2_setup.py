"""Install Detectron2's Python code where no usable Detectron2 is found, and remove it again.

    python tools/detectron2_setup.py install     # into the site-packages of this Python
    python tools/detectron2_setup.py check       # is there a usable one? changes nothing
    python tools/detectron2_setup.py uninstall   # removes what `install` put there, nothing else

A usable Detectron2 is used as it is; an unusable one is named and never touched. What is installed
has no compiled operators: on machines with GPUs prefer upstream's own installation,
https://detectron2.readthedocs.io/en/latest/tutorials/install.html
"""

import argparse
import csv
import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from detectron2_build import (
    BUILD,
    INFO,
    INSTALL_GUIDE,
    MARKER,
    VERSION,
    SetupError,
    file_digest,
    stage_build,
)

COMMAND = "python tools/detectron2_setup.py"
STAGING = ".detectron2-staging"

# What ms_detr needs from a Detectron2, whatever its version.
IMPORTS = (
    "import detectron2.engine",
    "import detectron2.data",
    "import detectron2.evaluation",
    "from detectron2.config import LazyConfig",
    "from detectron2.projects import point_rend",
)

# Runs in a new process: a half-broken installation can't leave half-imported modules behind.
PROBE = """
import importlib.util, json, sys
sys.path[:] = [folder for folder in sys.path if folder]  # the current folder is no installation
spec = importlib.util.find_spec("detectron2")
found = spec and (spec.origin or list(spec.submodule_search_locations)[0])
failed = None
for statement in {imports!r} if found else ():
    try:
        exec(statement)
    except BaseException as error:
        failed = f"`{{statement}}` failed: {{type(error).__name__}}: {{error}}"
        break
print("\\n" + json.dumps([found, failed]))
"""


def probe(python: str = sys.executable) -> tuple[str | None, str | None]:
    """Where this Python finds Detectron2 (None: nowhere) and which import failed (None: usable)."""
    code = PROBE.format(imports=IMPORTS)
    result = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    try:
        found, failed = json.loads(result.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        return "an unknown place", f"the imports ended Python with status {result.returncode}"
    return found, failed


def our_infos(site: Path) -> list[Path]:
    """The dist-info folders of this tool's versions; more than one only after an interruption."""
    return sorted(site.glob("detectron2-*+msdetr.*.dist-info"))


def is_ours(site: Path) -> bool:
    """True if this tool's files are there: an installation, or the rest of an interrupted one."""
    return (site / "detectron2" / MARKER).is_file() or bool(our_infos(site))


def is_complete(site: Path) -> bool:
    """True if this version of this tool installed Detectron2 there and every file is unchanged."""
    record = read_record(site / INFO)
    return bool(record) and all(
        (site / name).is_file() and (not digest or file_digest(site / name) == digest)
        for name, digest in record
    )


def read_record(info: Path) -> list[tuple[str, str]]:
    """Paths (relative to site-packages) and hashes of an installation's files; [] if unknown."""
    if not (info / "RECORD").is_file():
        return []
    with (info / "RECORD").open(newline="", encoding="utf-8") as file:
        return [(row[0], row[1]) for row in csv.reader(file) if row]


def install(site: Path, wheel: Path | None = None, python: str = sys.executable) -> str:
    """Make sure that `python`, whose site-packages is `site`, has a usable Detectron2.

    Interrupted anywhere, it can be run again: files are staged beside their place and renamed into
    it, the dist-info last, so that a package that has the marker but no dist-info is recognised.

    Returns:
        What was done, for people.

    Raises:
        SetupError: nothing usable is there and nothing could be installed.
    """
    stage, package = site / STAGING, site / "detectron2"
    shutil.rmtree(stage, ignore_errors=True)
    if is_complete(site):
        return require_usable(python) + " Nothing to do."
    if not is_ours(site):
        found, _ = probe(python)
        if found:
            return require_usable(python) + " Nothing to do."
    try:
        stage_build(stage, wheel, python)
        remove_ours(site)  # interrupted, damaged, or of an older version of this tool
        if package.exists():
            raise SetupError(f"{package} holds files that this tool didn't write. Move it away.")
        os.rename(stage / "detectron2", package)
        os.rename(stage / INFO, site / INFO)
    except PermissionError as error:
        raise SetupError(f"{error}. Use a virtual environment that you may write to.") from error
    finally:
        shutil.rmtree(stage, ignore_errors=True)
    return f"Installed Detectron2 {VERSION}. " + require_usable(python)


def uninstall(site: Path) -> str:
    """Remove what `install` put there, bytecode included; files of others stay."""
    shutil.rmtree(site / STAGING, ignore_errors=True)
    if not is_ours(site):
        return f"Nothing in {site} comes from this tool."
    remove_ours(site)
    return f"Removed Detectron2 from {site}."


def remove_ours(site: Path) -> None:
    """Delete what the RECORDs of this tool's installations list; finish an interrupted one."""
    infos = our_infos(site)
    names = [name for info in infos for name, _ in read_record(info)]
    for name in names:
        if not name.endswith(".dist-info/RECORD"):  # goes last, so that this can be run again
            remove_file(site, site / name)
    if not names and (site / "detectron2" / MARKER).is_file():
        shutil.rmtree(site / "detectron2")  # without a dist-info it is as it was staged
    for info in infos:
        shutil.rmtree(info)


def remove_file(site: Path, path: Path) -> None:
    """Delete a file, the bytecode that Python made of it, and folders that this leaves empty."""
    if site.resolve() not in path.resolve().parents:
        raise SetupError(f"RECORD names {path}, which is outside {site}. Nothing more was removed.")
    cache = path.parent / "__pycache__"
    bytecode = cache.glob(f"{path.stem}.*.pyc") if path.suffix == ".py" else ()
    for file in (path, *bytecode):
        file.unlink(missing_ok=True)
    for folder in (cache, *path.parents):
        if folder == site or (folder.is_dir() and any(folder.iterdir())):
            break
        if folder.is_dir():
            folder.rmdir()


def require_usable(python: str) -> str:
    """Say which Detectron2 is found; SetupError, with what to do, if it is missing or unusable."""
    found, failed = probe(python)
    if not found:
        raise SetupError(
            f"No Detectron2 was found. Run `{COMMAND} install`, or follow {INSTALL_GUIDE}"
        )
    if failed:
        raise SetupError(
            f"The Detectron2 at {found} is not usable: {failed}\n"
            f"It was left as it is. Install what is missing, or remove it (pip uninstall "
            f"detectron2) and then run `{COMMAND} install` or follow {INSTALL_GUIDE}"
        )
    return f"Detectron2 at {Path(found).parent} is usable."


def main(argv: list[str] | None = None) -> int:
    """Run one command; 0 if Detectron2 is as the command wants it, else 1."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("command", choices=["install", "check", "uninstall"])
    parser.add_argument("--wheel", type=Path, help=f"{BUILD} as a file, where pip can't get it")
    args = parser.parse_args(argv)
    site = Path(sysconfig.get_paths()["purelib"])
    try:
        if args.command == "install":
            print(install(site, args.wheel))
        elif args.command == "uninstall":
            print(uninstall(site))
        else:
            print(require_usable(sys.executable))
    except SetupError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
