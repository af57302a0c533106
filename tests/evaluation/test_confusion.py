"""The confusion matrix against supervision's, and by hand."""

import numpy as np
import pytest

from ms_detr.data import GroundTruth
from ms_detr.evaluation.confusion import confusion
from ms_detr.evaluation.detections import Detections

supervision = pytest.importorskip("supervision")
CLASSES = ("ant", "bee", "cat")


def truth_of(images, classes, boxes, crowds=None):
    boxes = np.array(boxes, float).reshape(-1, 4)
    return GroundTruth(
        dict.fromkeys(range(1, 9), (100, 100)),
        [3, 5, 8],
        CLASSES,
        np.array(images, np.int64),
        np.array(classes, np.int64),
        boxes,
        boxes[:, 2] * boxes[:, 3],
        np.zeros(len(boxes), bool) if crowds is None else np.array(crowds, bool),
        None,
    )


def detections_of(images, classes, boxes, scores):
    boxes = np.array(boxes, float).reshape(-1, 4)
    images, classes = np.array(images, np.int64), np.array(classes, np.int64)
    return Detections(images, boxes, np.array(scores, np.float32), classes, None, None)


def corners(boxes):
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1)


@pytest.mark.parametrize("seed", range(6))
def test_it_is_supervisions(seed):
    """Boxes of random places: no IoU is the threshold itself, which supervision leaves out."""
    rng = np.random.default_rng(seed)
    images = np.sort(rng.integers(1, 9, 60))
    boxes = np.concatenate([rng.uniform(0, 60, (60, 2)), rng.uniform(20, 40, (60, 2))], 1)
    truth = truth_of(images, rng.integers(0, 3, 60), boxes)
    chosen = np.sort(rng.integers(0, 60, 110))
    found = detections_of(
        images[chosen],
        np.where(rng.random(110) < 0.7, truth.classes[chosen], rng.integers(0, 3, 110)),
        boxes[chosen] + rng.normal(0, 3, (110, 4)),
        rng.random(110),
    )
    ours = confusion(truth, found, 0.3, 0.45)
    targets, predictions = [], []
    for image in truth.sizes:
        mine, seen = truth.images == image, found.images == image
        targets.append(
            supervision.Detections(corners(truth.boxes[mine]), class_id=truth.classes[mine])
        )
        predictions.append(
            supervision.Detections(
                corners(found.boxes[seen]),
                class_id=found.classes[seen],
                confidence=found.scores[seen],
            )
        )
    theirs = supervision.ConfusionMatrix.from_detections(
        predictions, targets, list(CLASSES), conf_threshold=0.3, iou_threshold=0.45
    )
    assert np.array_equal(ours.counts, theirs.matrix)
    assert np.diag(ours.counts)[:3].min() > 3
    assert ours.counts[:3, :3].sum() > np.trace(ours.counts)
    assert ours.counts[3].sum() > 5 and ours.counts[:, 3].sum() > 5


def test_crowds_by_hand():
    """Image 1 has a crowd of ants; image 2 a bee, seen twice, and an ant that is none."""
    truth = truth_of([1, 2], [0, 1], [[0, 0, 50, 50], [0, 0, 20, 20]], crowds=[1, 0])
    found = detections_of(
        [1, 1, 1, 2, 2, 2, 3],
        [0, 0, 1, 1, 1, 0, 2],
        [
            [5, 5, 9, 9], [30, 30, 20, 19], [5, 5, 9, 9], [0, 0, 20, 19],
            [0, 0, 20, 20], [0, 0, 20, 20], [0, 0, 5, 5],
        ],
        [0.9, 0.9, 0.9, 0.9, 0.8, 0.9, 0.9],
    )  # fmt: skip
    counts = confusion(truth, found, 0.3).counts
    expected = np.zeros((4, 4), int)
    expected[1, 1] = 1  # the second bee: its IoU is larger
    expected[3] = [1, 2, 1, 0]  # the ant, a bee in the ants' crowd, the first bee, the cat
    assert np.array_equal(counts, expected)
    assert confusion(truth, found, 0.3).largest(2) == [
        ("background", "bee", 2),
        ("background", "ant", 1),
    ]


def test_nothing_at_all():
    none = detections_of([], [], [], [])
    assert confusion(truth_of([], [], []), none, 0.3).counts.sum() == 0
    one = truth_of([1], [2], [[0, 0, 5, 5]])
    assert confusion(one, none, 0.3).largest(9) == [("cat", "background", 1)]
