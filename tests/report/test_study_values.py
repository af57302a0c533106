"""What a study makes of the scores: pycocotools' own arrays, by IoU, recall and class."""

import contextlib
import io
from types import SimpleNamespace

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ms_detr.evaluation.confusion import confusion
from ms_detr.evaluation.scoring import score_classes
from ms_detr.report.evaluation import Options, Study
from ms_detr.report.matching import match_images
from tests.evaluation.samples import random_sample

IMAGES = 8


def scored(content, results, kind, most):
    unwanted = "bbox" if kind == "segm" else "segmentation"
    results = [{k: v for k, v in one.items() if k != unwanted} for one in results]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = content
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(results), kind)
        evaluation.params.maxDets = [1, min(10, most), most]
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation


@pytest.mark.parametrize(("seed", "most"), [(0, 100), (1, 3)])
@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_precision_over_recall_and_by_iou(kind, seed, most, tmp_path):
    """One class has no object: it is NaN and in no mean. Crowds, ties, images without objects."""
    content, results, truth, found = random_sample(tmp_path, seed, IMAGES, 40, 12, masks=True)
    theirs = scored(content, results, kind, most)
    scores = score_classes(truth, found, range(len(truth.class_names)), kind, most)[0]
    study = Study(
        SimpleNamespace(truth=truth), found, Options(max_detections=most), {kind: {}},
        {kind: scores}, {}, None, None,
    )  # fmt: skip
    expected = theirs.eval["precision"][:, :, :, 0, -1]
    ours = study.precision(kind)
    there = expected[0, 0] > -1
    assert there.sum() == 3 and np.isnan(ours[..., ~there]).all() and not there.all()
    np.testing.assert_allclose(ours, np.where(expected < 0, np.nan, expected), atol=1e-12)
    by_iou = list(study.by_iou()[kind].values())
    np.testing.assert_allclose(by_iou, expected[..., there].mean((1, 2)) * 100, atol=1e-9)
    for k, name in enumerate(truth.class_names):
        of = study.by_class()[name][kind]
        for place, metric in enumerate(("AP", "APs", "APm", "APl")):
            values = theirs.eval["precision"][:, :, k, place, -1]
            values = values[values > -1]
            value = values.mean() * 100 if len(values) else np.nan
            assert of[metric] == pytest.approx(value, abs=1e-9, nan_ok=True)


@pytest.mark.parametrize("threshold", [0.0, 0.01, 0.3])
def test_found_and_wrong_are_pycocotools_matches_at_any_threshold(threshold, tmp_path):
    content, results, truth, found = random_sample(tmp_path, 2, IMAGES, 40, 12)
    results = [one for one in results if one["score"] >= threshold]
    theirs = scored(content, results, "bbox", 1000)
    right = wrong = 0
    for image in theirs.evalImgs:
        if image is not None and image["aRng"] == theirs.params.areaRng[0]:
            matched, passed = image["dtMatches"][0] > 0, image["dtIgnore"][0] > 0
            right += int((matched & ~passed).sum())
            wrong += int((~matched & ~passed).sum())
    order = np.lexsort((-found.scores, found.images))
    ordered = type(found)(*(
        None if (x := getattr(found, name)) is None else x[order]
        for name in ("images", "boxes", "scores", "classes", "survives", "masks")
    ))  # fmt: skip
    tallies = [x.tally(threshold) for x in match_images(truth, ordered, threshold).values()]
    assert sum(t.found for t in tallies) == right > 0
    assert sum(t.wrong for t in tallies) == wrong > 0
    counts = confusion(truth, ordered, threshold).counts
    assert counts[:-1].sum() == (~truth.crowds).sum()
