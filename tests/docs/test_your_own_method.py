"""The page that adds a method, followed literally in a copy of the package."""

import importlib.util
import math
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.modeling.support import SMALLER
from tests.supervision.support import make_images, make_predictions, make_targets

from .pages import DOCS, ROOT, blocks, commands, without_checkout

PAGE = DOCS / "your_own_method.md"
FILES = {block.name: block.text for block in blocks("python", PAGE) if block.name}
VARIANT, RECIPE, CONFIG = FILES
OVERRIDES = commands(blocks("bash", PAGE)[0])[0][3:]
INDEX = "ms_detr/recipes/__init__.py"


def trained(folder: Path, config: str, monkeypatch) -> list[str]:
    """What two steps of the config print, with the folder's ms_detr."""
    monkeypatch.setenv("PYTHONPATH", without_checkout(folder))
    script = str(Path(__file__).parent / "own_method.py")
    command = [sys.executable, script, config, *SMALLER, *OVERRIDES]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    assert result.returncode == 0, result.stderr
    assigner, *steps = result.stdout.splitlines()
    losses = [float(loss) for step in steps for loss in step.split()]
    assert len(losses) == 6 and all(math.isfinite(loss) and loss > 0 for loss in losses)
    return assigner.split()


def test_three_files_and_an_index(tmp_path, monkeypatch):
    assert len(OVERRIDES) == 1
    for name in ("ms_detr", "configs"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, tmp_path / name, ignore=ignored)
    assert [Path(name).parent.as_posix() for name in FILES] == [
        "ms_detr/variants",
        "ms_detr/recipes",
        "configs/ms_detr",
    ]
    for name, text in FILES.items():
        assert not (tmp_path / name).exists()
        (tmp_path / name).write_text(text)
    (line,) = [block.text for block in blocks("python", PAGE) if not block.name]
    index = tmp_path / INDEX
    name = line.split()[-1]
    before, rest = index.read_text().split("from .hybrid import", 1)
    rest = rest.replace("__all__ = [\n", f'__all__ = [\n    "{name}",\n')
    index.write_text(f"{before}{line}from .hybrid import{rest}")
    assert trained(tmp_path, CONFIG, monkeypatch) == ["ms_detr.variants.dynamic_k", "DynamicTopK"]


def test_outside_the_package(tmp_path, monkeypatch):
    """The same files, but for the imports of each other."""
    texts = {
        "mine/variant.py": FILES[VARIANT],
        "mine/recipe.py": FILES[RECIPE].replace("ms_detr.variants.dynamic_k", "mine.variant"),
        "my_config.py": "from mine.recipe import dynamic_k\n"
        + re.sub(r" dynamic_k,", "", FILES[CONFIG]),
    }
    for name, text in texts.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "ms_detr").symlink_to(ROOT / "ms_detr")
    assert trained(tmp_path, "my_config.py", monkeypatch) == ["mine.variant", "DynamicTopK"]


@pytest.fixture
def assigner(tmp_path):
    """The page's class."""
    (tmp_path / "variant.py").write_text(FILES[VARIANT])
    spec = importlib.util.spec_from_file_location("variant", tmp_path / "variant.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.DynamicTopK(k=4, candidates=3, alpha=0.0)


def test_objects_get_as_many_queries_as_their_best_overlaps_add_up_to(assigner):
    score = torch.tensor([[0.9, 0.8, 0.7, 0.6], [0.2, 0.1, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0]])
    assert assigner.counts(score[None, None], None, None).tolist() == [[[2, 1, 3]]]
    rng = np.random.default_rng(0)
    images = make_images(rng, (3, 0, 2))
    predictions, targets = make_predictions(rng, images, 9), make_targets(images)
    assignment = assigner.assign(predictions, targets, None)
    assert assignment.valid.any(-1).eq(targets.valid).all()
    assert assignment.valid.shape[-1] == 4
