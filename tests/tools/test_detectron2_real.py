"""The real build: downloaded, installed next to today's libraries, used, removed."""

import subprocess
import sys
from pathlib import Path

import detectron2_build
import detectron2_setup
import pytest
from detectron2_build import INFO, VERSION, SetupError, file_digest

from tests.conftest import site_packages

# What has to work without the compiled extension, and what has to say that it can't.
USE = """
import warnings; warnings.simplefilter("ignore")
import torch
from detectron2 import _C, model_zoo
from detectron2.config import LazyConfig, instantiate
from detectron2.layers import batched_nms, nms_rotated
from detectron2.layers.rotated_boxes import pairwise_iou_rotated
from detectron2.projects.point_rend import point_features
from detectron2.structures import Boxes, Instances, PolygonMasks
from detectron2.utils.collect_env import collect_env_info
from detectron2.utils.events import EventStorage

boxes = torch.tensor([[0.0, 0, 8, 8], [0, 0, 8, 7], [20, 20, 30, 30]])
scores = torch.tensor([0.9, 0.8, 0.7])
assert batched_nms(boxes, scores, torch.zeros(3), 0.5).tolist() == [0, 2]
assert point_features.point_sample(torch.ones(1, 1, 4, 4), torch.full((1, 3, 2), 0.5)).sum() == 3

config = model_zoo.get_config("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.py")
model = instantiate(config.model).train()
target = Instances((64, 64), gt_boxes=Boxes(boxes[2:]), gt_classes=torch.zeros(1).long())
target.gt_masks = PolygonMasks([[[20.0, 20, 30, 20, 30, 30]]])
with EventStorage():
    losses = model([{"image": torch.zeros(3, 64, 64, dtype=torch.uint8), "instances": target}])
sum(losses.values()).backward()

assert "not compiled" in collect_env_info()
assert not hasattr(_C, "COCOevalEvaluateImages")
for call in (lambda: nms_rotated(torch.zeros(1, 5), torch.zeros(1), 0.5),
             lambda: torch.ops.detectron2.box_iou_rotated(torch.zeros(1, 5), torch.zeros(1, 5)),
             lambda: pairwise_iou_rotated(torch.zeros(1, 5), torch.zeros(1, 5))):
    try:
        call()
    except (AttributeError, RuntimeError) as error:
        assert "needs Detectron2's compiled extension" in str(error), error
    else:
        raise AssertionError("an operator that isn't there gave a result")
print("all of it works")
"""


@pytest.fixture(scope="session")
def wheel(tmp_path_factory) -> Path:
    try:
        return detectron2_build.download(tmp_path_factory.mktemp("build") / "d", sys.executable)
    except SetupError as error:
        pytest.skip(f"the build can't be downloaded here: {error}")


def run(*command: str) -> str:
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def files(site: Path) -> set[str]:
    return {path.relative_to(site).as_posix() for path in site.rglob("*")}


@pytest.mark.slow
def test_life_of_the_real_installation(wheel, new_environment):
    python = str(new_environment(packages=True))
    site = site_packages(Path(python))
    before = files(site)

    output = run(python, detectron2_setup.__file__, "install", "--wheel", str(wheel))
    assert f"Installed Detectron2 {VERSION}" in output
    sources = list((site / "detectron2").rglob("*.py"))
    assert len(sources) == 137 + 54 + 1  # the library, model zoo and projects, and our _C.py
    assert not [path for path in sources if b"\r" in path.read_bytes()]
    record = detectron2_setup.read_record(site / INFO)
    assert all(file_digest(site / name) == digest for name, digest in record if digest)
    assert {name for name, _ in record} == {
        path.relative_to(site).as_posix()
        for folder in ("detectron2", INFO)
        for path in (site / folder).rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }

    assert "all of it works" in run(python, "-c", USE)
    assert "No broken requirements" in run(python, "-m", "pip", "check")
    assert f"Version: {VERSION}" in run(python, "-m", "pip", "show", "detectron2")

    run(python, "-m", "pip", "uninstall", "--yes", "detectron2")
    assert files(site) == before


def test_uninstall_leaves_no_trace_of_a_used_installation(wheel, new_environment):
    python = str(new_environment(packages=True))
    site = site_packages(Path(python))
    before = files(site)
    run(python, detectron2_setup.__file__, "install", "--wheel", str(wheel))
    assert list((site / "detectron2").rglob("*.pyc"))  # the check after the installation made it
    run(python, detectron2_setup.__file__, "uninstall")
    assert files(site) == before
