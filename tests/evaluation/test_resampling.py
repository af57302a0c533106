"""AP of resampled images against pycocotools on the resampled dataset."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ms_detr.evaluation.matches import match_classes
from ms_detr.evaluation.resampling import average_precision, metrics
from ms_detr.evaluation.scoring import score

from .judge import judge
from .samples import random_sample, resampled
from .test_scoring import NAMES


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("resampling")


def precision_of(truth, detections, weights, kind="bbox", most=100):
    each = match_classes(truth, detections, kind, most)
    return np.stack([average_precision(matches, weights) for matches in each])


@settings(deadline=None, max_examples=12)
@given(
    seed=st.integers(0, 2**32 - 1),
    images=st.integers(1, 6),
    objects=st.integers(0, 25),
    most=st.sampled_from([1, 5, 100]),
    kind=st.sampled_from(["bbox", "segm"]),
)
def test_draws_are_what_pycocotools_makes_of_the_drawn_images(
    folder, seed, images, objects, most, kind
):
    content, results, truth, detections = random_sample(
        folder, seed, images, objects, 20, kind == "segm"
    )
    rng = np.random.default_rng(seed)
    weights = rng.multinomial(images, np.full(images, 1 / images), size=3).T
    weights = np.concatenate([np.ones((images, 1), int), weights], 1)
    ours = metrics(precision_of(truth, detections, weights, kind, most), truth.class_names)
    for draw in range(weights.shape[1]):
        theirs = judge(*resampled(content, results, weights[:, draw]), NAMES, kind, most)
        found = {name: values[draw] for name, values in ours.items()}
        expected = {name: theirs[name] for name in found}
        assert found == pytest.approx(expected, rel=0, abs=1e-9, nan_ok=True), draw
    whole = score(truth, detections, kind, most)[0]
    assert {n: v[0] for n, v in ours.items()} == pytest.approx(
        {n: whole[n] for n in ours}, rel=0, abs=1e-9, nan_ok=True
    )


def test_draws_in_parts_are_the_same(folder, monkeypatch):
    _, _, truth, detections = random_sample(folder, 3, 6, 25, 20)
    weights = np.random.default_rng(0).integers(0, 3, (6, 17))
    whole = precision_of(truth, detections, weights)
    monkeypatch.setattr("ms_detr.evaluation.resampling.CELLS", 100)
    assert np.array_equal(precision_of(truth, detections, weights), whole, equal_nan=True)


def test_an_image_alone(folder):
    """By `by_image`, against the choice of that image alone."""
    _, _, truth, detections = random_sample(folder, 5, 6, 30, 20)
    seen = 0
    for matches in match_classes(truth, detections):
        whole = average_precision(matches, np.eye(6, dtype=int))
        for image, alone in matches.by_image():
            value = average_precision(alone, np.ones((1, 1), int))[..., 0]
            assert np.allclose(value, whole[:1, :, image], rtol=0, atol=1e-12, equal_nan=True)
            seen += 1
    assert seen > 8
