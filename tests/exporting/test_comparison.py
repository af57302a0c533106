"""What `ms-detr export --check` takes for the same, of files' and PyTorch's detections."""

import json
import math

import numpy as np
import pytest

from ms_detr.cli import export as verb
from ms_detr.cli import main
from ms_detr.exporting import Difference
from ms_detr.exporting.comparison import Found, difference


def found(**changed):
    values = {
        "boxes": np.array([[0, 0, 1, 1], [0, 0, 0.5, 0.5], [0.1, 0.1, 0.2, 0.2]], np.float32),
        "scores": np.array([0.9, 0.6, 0.1], np.float32),
        "labels": np.array([0, 1, 0]),
        "masks": np.zeros((3, 2, 2), bool),
    }
    return Found(**values | changed)


def test_the_same_is_the_same():
    same = difference(found(), found(), 1e-3)
    assert same == Difference(2, 0, 0.0, 0.0, 0.0) and same.within(0.0)  # the last may be another


def test_differences_by_hand():
    moved = found().boxes + np.float32([[0], [0.25], [0]])
    masks = found().masks.copy()
    masks[0, 0, 0] = True
    one = difference(found(boxes=moved, masks=masks), found(), 1e-3)
    assert one == Difference(2, 0, 0.0, 0.25, 0.25)
    assert one.within(0.25) and not one.within(0.2)
    lower = difference(found(scores=np.float32([0.9, 0.5, 0.1])), found(), 1e-3)
    assert lower.missing == 1 and not lower.within(1.0)
    assert lower.scores == pytest.approx(0.1)
    other = difference(found(labels=np.array([0, 0, 0])), found(), 1e-3)
    assert other.missing == 1
    fewer = found(**{key: x[:2] for key, x in vars(found()).items()})
    assert not difference(fewer, found(), 1e-3).within(1.0)


@pytest.mark.parametrize("name", ["boxes", "scores"])
@pytest.mark.parametrize("place", [0, 1])
def test_a_file_that_gives_nan_differs(name, place):
    values = getattr(found(), name).copy()
    values[place] = math.nan
    broken = difference(found(**{name: values}), found(), 1e-3)
    assert not broken.within(1.0)
    good = difference(found(), found(), 1e-3)
    for several in ([good, broken], [broken, good]):
        assert not Difference.worst(several).within(1.0)


def test_nan_is_null_in_json(tmp_path, capsys):
    class Args:
        check, tolerance, json, masks = ["a.png"], 1e-3, True, False

    assert verb._tell(Args, tmp_path / "m.onnx", [Difference(3, 0, math.nan, 0.0, 0.0)]) == 1
    out, err = capsys.readouterr()
    assert "NaN" not in out and not json.loads(out)["agrees"]
    assert json.loads(out)["images"][0]["scores"] is None and "differ by more" in err


@pytest.mark.parametrize("tolerance", ["nan", "-1", "2", "much"])
def test_tolerances_without_sense(tolerance, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["export", "--weights", "x.pth", f"--tolerance={tolerance}"])
    assert "--tolerance" in capsys.readouterr().err
