"""What the package imports, and what setup.py promises to be there."""

import ast
import importlib.metadata
import itertools
import re
import subprocess
import sys

from ms_detr.cli.doctor import DISTRIBUTIONS, PACKAGES
from tests.conftest import ROOT

OWN = {"ms_detr", "detectron2", "build_extensions"}


def promised(key):
    """Distributions that setup.py lists."""
    calls = [n for n in ast.walk(ast.parse((ROOT / "setup.py").read_text())) if type(n) is ast.Call]
    (value,) = [k.value for call in calls for k in call.keywords if k.arg == key]
    listed = ast.literal_eval(value)
    names = itertools.chain(*listed.values()) if isinstance(listed, dict) else listed
    return {re.split("[<>=]", name)[0] for name in names}


def imported():
    """Packages by the files that import them, also inside functions and by name."""
    found = {}
    for file in [*(ROOT / "ms_detr").rglob("*.py"), *(ROOT / "configs").rglob("*.py"),
                 ROOT / "train_net.py"]:  # fmt: skip
        for node in ast.walk(ast.parse(file.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module]
            elif (
                isinstance(node, ast.Call)
                and getattr(node.func, "attr", "") == "import_module"
                and isinstance(node.args[0], ast.Constant)
            ):
                names = [node.args[0].value]
            for name in names:
                found.setdefault(name.partition(".")[0], set()).add(str(file.relative_to(ROOT)))
    return found


def test_every_import_is_promised():
    known = {DISTRIBUTIONS.get(name, name): files for name, files in imported().items()}
    foreign = known.keys() - sys.stdlib_module_names - OWN
    required, extras = promised("install_requires"), promised("extras_require")
    assert {"torch", "scipy", "timm"} <= foreign
    missing = {name: known[name] for name in foreign - required - extras}
    assert not missing
    # And the doctor looks at everything that is promised; extras it has from the metadata.
    assert set(PACKAGES.values()) | {"torch"} == required


def brought_along(names):
    """Distributions that these need, and what those need."""
    found, left = set(), list(names)
    while left:
        for line in importlib.metadata.requires(left.pop()) or ():
            name = plain(re.match(r"[\w.-]+", line)[0])
            if "extra ==" not in line and name not in found and is_installed(name):
                found.add(name)
                left.append(name)
    return found


def plain(name):
    return name.lower().replace("_", "-")


def is_installed(name):
    try:
        return bool(importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return False


LOADED = """
import importlib, importlib.metadata, pkgutil, sys
from ms_detr.cli import doctor
owners = importlib.metadata.packages_distributions()
def foreign():
    loaded = {name.partition(".")[0] for name in sys.modules}
    return {owner for name in loaded for owner in owners.get(name, ())}
for name in ("torch", *doctor.PACKAGES):
    importlib.import_module(name)
for statement in doctor.DETECTRON2_IMPORTS:
    exec(statement)
seen = foreign()
import ms_detr
for module in pkgutil.walk_packages(ms_detr.__path__, "ms_detr."):
    if not module.name.endswith(("__main__", "._C", "._C_cuda")):
        importlib.import_module(module.name)
print(*sorted(foreign() - seen))
"""


def test_the_doctor_imports_all_that_is_needed():
    """What Detectron2 needs, too: a package that is missing shows there, not in a training."""
    result = subprocess.run(
        [sys.executable, "-c", LOADED], cwd=ROOT, capture_output=True, text=True, check=True
    )
    later = {plain(name) for name in result.stdout.split()}
    # What extras bring along others take where it is, as numpy.f2py does charset-normalizer.
    extras = {name for name in promised("extras_require") if is_installed(name)}
    assert later <= brought_along(promised("install_requires") | extras)


def test_training_goes_on_without_tensorboard(train, tmp_path, monkeypatch):
    for name in [name for name in sys.modules if "tensorboard" in name]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    train("out", "train.max_iter=2")
    assert len((tmp_path / "out" / "metrics.json").read_text().splitlines()) >= 2
    assert not list((tmp_path / "out").glob("events*"))
    log = (tmp_path / "out" / "log.txt").read_text()
    assert log.count("python -m pip install tensorboard") == 1


def test_training_and_predicting_load_nothing_that_draws():
    """It costs seconds and memory in every process; what draws asks for it."""
    drawing = {"matplotlib", "jinja2", "ms_detr.report", "ms_detr.visualization"}
    code = f"import sys, ms_detr.engine; print({drawing} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
