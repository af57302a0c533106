"""Exported files of all methods against PyTorch."""

import pytest

from ms_detr.exporting import Form
from ms_detr.recipes.demo import METHODS

from .family import CONFIGS, check

MASKS = [name for name in CONFIGS if "masks" in name]


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(METHODS))
def test_onnx(name, tmp_path):
    check(name, tmp_path, "onnx", Form())


@pytest.mark.slow
@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("postprocess", [True, False])
def test_onnx_with_masks(name, postprocess, tmp_path):
    check(name, tmp_path, "onnx", Form(masks=True, postprocess=postprocess))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["plus_plus", "sam_smca"])
def test_onnx_by_gather(name, tmp_path):
    check(name, tmp_path, "onnx", Form(gather=True, preprocess=False))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["detr", "one_stage", "sam_smca", "masks"])
def test_torch_export(name, tmp_path):
    check(name, tmp_path, "torch-export", Form(gather=True, masks=name == "masks"))
