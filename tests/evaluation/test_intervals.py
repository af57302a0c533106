"""Differences with their intervals: against a bootstrap that scores each draw by pycocotools."""

import math

import numpy as np
import pytest

from ms_detr.data import GroundTruth
from ms_detr.errors import ConfigError
from ms_detr.evaluation.detections import Detections
from ms_detr.evaluation.intervals import bootstrap, compared, draw_weights
from ms_detr.evaluation.per_image import image_aps

from .judge import judge
from .samples import random_sample, resampled
from .test_scoring import NAMES

IMAGES = 5


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    """Objects, and two models' detections, the second of which lacks half of the first's."""
    folder = tmp_path_factory.mktemp("bootstrap")
    content, results, truth, detections = random_sample(folder, 11, IMAGES, 25, 25)
    half = np.arange(len(results)) % 2 == 0
    fewer = [result for result, kept in zip(results, half, strict=True) if kept]
    return content, (results, fewer), truth, {"all": detections, "half": detections.taken(half)}


def alone(detections):
    """Each model trained once."""
    return {name: [found] for name, found in detections.items()}


def test_it_is_the_bootstrap_of_pycocotools(sample):
    content, results, truth, detections = sample
    found = bootstrap(truth, alone(detections), draws=30, seed=7)["half"]
    weights = np.random.default_rng(7).multinomial(IMAGES, np.full(IMAGES, 1 / IMAGES), 30)
    scored = [
        [judge(*resampled(content, each, draw), NAMES) for each in results] for draw in weights
    ]
    whole = [judge(content, each, NAMES) for each in results]
    for metric in ("AP", "AP50", "AP75", "APs", "APm", "APl", "AP-ant", "AP-dog"):
        differences = np.array([one[metric] - other[metric] for one, other in scored])
        differences = differences[~np.isnan(differences)]
        mine = found[metric]
        assert mine.draws == len(differences)
        expected = [each[metric] for each in whole]
        assert [mine.first, mine.second] == pytest.approx(expected, abs=1e-9, nan_ok=True)
        if len(differences):
            assert mine.low == pytest.approx(np.quantile(differences, 0.025), abs=1e-9)
            assert mine.high == pytest.approx(np.quantile(differences, 0.975), abs=1e-9)
            share = (differences > 1e-9).mean() + (abs(differences) <= 1e-9).mean() / 2
            assert mine.better == pytest.approx(share)
    assert math.isnan(found["AP-dog"].low) and found["AP-dog"].draws == 0
    assert found["AP"].difference > 0 and 0.5 < found["AP"].better <= 1


def test_a_model_and_itself_do_not_differ(sample):
    _, _, truth, detections = sample
    found = bootstrap(truth, {"a": [detections["all"]], "b": [detections["all"]]}, draws=20)["b"]
    assert (found["AP"].low, found["AP"].high, found["AP"].better) == (0, 0, 0.5)
    assert not found["AP"].is_clear


def test_a_seed_is_a_result(sample):
    _, _, truth, detections = sample
    one, same, other = (
        bootstrap(truth, alone(detections), draws=20, seed=seed)["half"]["AP"] for seed in (1, 1, 2)
    )
    assert one == same != other


def test_several_trainings_of_a_model_score_their_mean(sample):
    """In every draw: a model of two against itself has half of their difference."""
    _, _, truth, found = sample
    pair, one, other = [found["all"], found["half"]], [found["all"]], [found["half"]]
    mean = bootstrap(truth, {"pair": pair, "half": other}, draws=40)["half"]["AP"]
    whole = bootstrap(truth, {"all": one, "half": other}, draws=40)["half"]["AP"]
    assert mean.first == pytest.approx((whole.first + whole.second) / 2)
    assert [mean.low, mean.high] == pytest.approx([whole.low / 2, whole.high / 2])
    turned = whole.turned()
    assert turned.difference == -whole.difference and turned.low == -whole.high
    assert turned.better == pytest.approx(1 - whole.better)


def test_an_interval_holds_what_it_should():
    """Of normal differences, 95% about their mean."""
    rng = np.random.default_rng(0)
    draws = rng.normal(2.0, 1.0, 20_000)
    found = compared(np.append(2.0, draws), np.zeros(20_001))
    assert (found.low, found.high) == pytest.approx((0.04, 3.96), abs=0.05)
    assert found.better == pytest.approx(0.977, abs=0.005) and found.is_clear


def test_one_image_tells_nothing(sample):
    with pytest.raises(ConfigError, match="has 1 image: what a difference owes"):
        draw_weights(1, 10, 0)


def test_the_ap_of_images_is_pycocotools_of_each(sample):
    content, (results, _), truth, detections = sample
    found = image_aps(truth, detections["all"])
    for place, image in enumerate(truth.sizes):
        alone = np.eye(IMAGES, dtype=int)[place]
        expected = judge(*resampled(content, results, alone), NAMES)["AP"]
        assert found.get(image, math.nan) == pytest.approx(expected, abs=1e-9, nan_ok=True)
    assert len(found) == IMAGES


def test_images_without_objects_have_no_ap(sample):
    _, _, truth, detections = sample
    none = np.zeros(0, np.int64)
    empty = GroundTruth(
        truth.sizes, truth.category_ids, truth.class_names, none, none, np.zeros((0, 4)),
        np.zeros(0), np.zeros(0, bool), None,
    )  # fmt: skip
    assert image_aps(empty, detections["all"]) == {}
    assert image_aps(truth, Detections.join([], False, False)) == dict.fromkeys(truth.sizes, 0.0)
    found = bootstrap(empty, alone(detections), draws=5)["half"]["AP"]
    assert math.isnan(found.difference) and found.draws == 0
