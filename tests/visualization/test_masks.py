"""Masks in pictures: where they are painted, and where not."""

import numpy as np
import pytest
import torch
from detectron2.data import Metadata
from detectron2.structures import Boxes, BoxMode, Instances
from matplotlib.colors import to_rgb
from PIL import Image
from pycocotools import mask as coco_mask

from ms_detr.visualization.scene import SHORT_SIDE, Canvas, canvas

GREY = 100
BOX = [10.0, 10, 50, 50]
SCALE = SHORT_SIDE // 64


@pytest.fixture
def record(tmp_path):
    Image.fromarray(np.full((64, 64, 3), GREY, np.uint8)).save(tmp_path / "grey.png")
    return {"file_name": str(tmp_path / "grey.png"), "height": 64, "width": 64}


def ring() -> np.ndarray:
    """A frame 10 pixels wide."""
    mask = np.zeros((64, 64), bool)
    mask[10:50, 10:50] = True
    mask[20:40, 20:40] = False
    return mask


def forms():
    """The ring as pixels, as runs, and as two polygons."""
    runs = coco_mask.encode(np.asfortranarray(ring(), dtype=np.uint8))
    left = [10.0, 10, 50, 10, 50, 20, 20, 20, 20, 40, 50, 40, 50, 50, 10, 50]
    right = [40.0, 20, 50, 20, 50, 40, 40, 40]
    return {"bitmap": ring(), "runs": runs, "polygons": [np.array(left), np.array(right)]}


def assert_ring(picture: np.ndarray) -> None:
    """Half transparent on the ring, untouched in its hole and around it."""
    assert picture.shape == (SHORT_SIDE, SHORT_SIDE, 3)
    inside = np.kron(ring(), np.ones((SCALE, SCALE), bool))
    # Away from edges of masks and boxes, and from the label above the box.
    rows, columns = np.mgrid[:SHORT_SIDE, :SHORT_SIDE] / SCALE
    edges = (10, 20, 40, 50)
    clear = np.all([(abs(rows - e) > 2) & (abs(columns - e) > 2) for e in edges], 0)
    painted = np.unique(picture[inside & clear], axis=0)
    assert len(painted) == 1 and (painted[0] != GREY).any()
    outside = ~inside & clear & ((rows < 5) | (rows > 10))
    assert (picture[outside] == GREY).all()


@pytest.mark.parametrize("form", forms())
def test_annotated_masks(record, form):
    item = {"bbox": BOX, "bbox_mode": BoxMode.XYXY_ABS, "category_id": 0}
    annotated = record | {"annotations": [{**item, "segmentation": forms()[form]}]}
    metadata = Metadata(thing_classes=["ring"])
    assert_ring(canvas(annotated, metadata).draw_dataset_dict(annotated).get_image())


def test_predicted_masks(record):
    instances = Instances((64, 64), pred_boxes=Boxes(torch.tensor([BOX, [0.0, 0, 0, 0]])))
    instances.pred_masks = torch.from_numpy(np.stack((ring(), np.zeros_like(ring()))))
    instances.scores, instances.pred_classes = torch.ones(2), torch.tensor([0, 0])
    metadata = Metadata(thing_classes=["ring"])
    assert_ring(canvas(record, metadata).draw_instance_predictions(instances[:1]).get_image())
    # An empty mask is no error, nor are none.
    canvas(record, metadata).draw_instance_predictions(instances)
    plain = canvas(record, metadata).draw_instance_predictions(instances[:0]).get_image()
    assert (plain == GREY).all()


def test_color_and_transparency():
    panel = Canvas(np.zeros((40, 40, 3), np.uint8), Metadata(), 1.0)
    mask = np.zeros((40, 40), bool)
    mask[10:30, 10:30] = True
    picture = panel.overlay_instances(masks=[mask], assigned_colors=["red"]).get_image()
    expected = 0.5 * 255 * np.array(to_rgb("red"))
    np.testing.assert_allclose(picture[20, 20], expected, atol=1)
    assert picture[20, 10, 0] > 150  # the outline
