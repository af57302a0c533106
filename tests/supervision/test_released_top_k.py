import math

import numpy as np
import pytest
import torch

from ms_detr.structures import PredictionSet
from ms_detr.supervision import ReleasedTopK
from ms_detr.supervision.one_to_many import match_score

from . import reference
from .support import make_images, make_predictions, make_targets, pairs, score_of


def assign(predictions, images, **options):
    return ReleasedTopK(**options).assign(predictions, make_targets(images), None)


def within_quota(score, queries, threshold=0.4, quota=0.25):
    if len(score) == 0:
        return True
    return len(reference.positives(score, threshold)[0]) <= math.floor(quota * queries)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_score_equals_the_loop(alpha):
    rng = np.random.default_rng(0)
    images = make_images(rng, [4, 0, 2])
    predictions = make_predictions(rng, images, queries=6)
    score = match_score(predictions, make_targets(images), alpha)
    assert score.shape == (2, 3, 4, 6)
    for layer in range(2):
        for b, image in enumerate(images):
            count = len(image["labels"])
            expected = score_of(predictions, images, layer, b, alpha)
            np.testing.assert_allclose(score[layer, b, :count], expected, atol=1e-12)
            assert (score[layer, b, count:] < 0).all()


def crowded(seed):
    """Images of 0 to 9 objects, some twice, with boxes around them."""
    rng = np.random.default_rng(seed)
    images = make_images(rng, rng.integers(0, 10, 3), classes=2)
    for image in images:
        count = len(image["labels"])
        if count > 2 and rng.random() < 0.5:  # the same object twice
            image["boxes"][1] = image["boxes"][0]
            image["labels"][1] = image["labels"][0]
    queries = int(rng.choice([24, 60]))
    spread = float(rng.choice([0.1, 0.3, 0.6]))
    return images, make_predictions(rng, images, queries, classes=2, spread=spread), queries


def test_equals_the_loop_in_crowded_images():
    """Hundreds of images within the quota, with all the special cases of the description."""
    seen = dict.fromkeys(("exact", "conflict", "unmatched", "below", "shared count"), 0)
    for seed in range(100):
        images, predictions, queries = crowded(seed)
        assignment = assign(predictions, images)
        for layer in range(2):
            for b, image in enumerate(images):
                score = score_of(predictions, images, layer, b)
                if not within_quota(score, queries):
                    continue
                found = pairs(assignment, layer, b)
                assert found == reference.released_top_k(score), (seed, layer, b)
                count = len(image["labels"])
                taken = [q for q, _ in found]
                seen["exact"] += count > 0
                seen["conflict"] += len(set(taken)) < len(taken)
                seen["unmatched"] += len({g for _, g in found}) < count
                seen["below"] += any(score[g, q] < 0.4 for q, g in found)
                owners = score.argmax(0) if count else []
                seen["shared count"] += any(owners[q] != g for q, g in found)
    assert seen["exact"] > 200, seen
    assert min(seen.values()) > 20, seen


def test_ties_take_the_lower_query_and_the_lower_object():
    """Coordinates on a coarse grid and no class share make exact ties everywhere."""
    ties = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)

        def draw(*size, rng=rng):
            parts = rng.choice([0.25, 0.5, 0.75], (*size, 2)), rng.choice([0.25, 0.5], (*size, 2))
            return torch.from_numpy(np.concatenate(parts, -1))

        images = [{"labels": torch.zeros(n).long(), "boxes": draw(n)} for n in (3, 5)]
        predictions = PredictionSet(torch.zeros(2, 2, 40, 2).double(), draw(2, 2, 40))
        for options in ({"threshold": 0.6, "k": 3}, {"threshold": 0.9, "k": 6}):
            options["alpha"] = 0.0
            assignment = assign(predictions, images, quota=1.0, **options)
            score = match_score(predictions, make_targets(images), 0.0).numpy()
            for layer in range(2):
                for b, count in enumerate((3, 5)):
                    exact = score[layer, b, :count]
                    ties += len(np.unique(exact)) < exact.size
                    expected = reference.released_top_k(
                        exact, options["k"], options["threshold"], quota=1.0
                    )
                    assert pairs(assignment, layer, b) == expected
    assert ties == 480


def known(overlaps, objects=1):
    """One image: squares of side 1/2 shifted so that IoU with each object is as given, exactly.

    `overlaps[q]` is IoU with the single object at the centre, one of 1, 1/3 and 0.
    """
    shift = {1.0: 0.0, 1 / 3: 0.25, 0.0: 0.5}
    boxes = [[0.25 + shift[value], 0.25, 0.5, 0.5] for value in overlaps]
    image = {
        "labels": torch.zeros(objects).long(),
        "boxes": torch.tensor([[0.25, 0.25, 0.5, 0.5]] * objects, dtype=torch.float64),
    }
    boxes = torch.tensor(boxes, dtype=torch.float64).view(1, 1, -1, 4)
    return PredictionSet(torch.zeros(1, 1, len(overlaps), 2).double(), boxes), [image]


def test_the_threshold_is_inclusive():
    predictions, images = known([0.0, 1 / 3, 1.0, 1 / 3, 0.0, 0.0, 0.0, 0.0])
    third = match_score(predictions, make_targets(images), 0.0)[0, 0, 0, 1].item()
    assert third == pytest.approx(1 / 3)
    options = {"alpha": 0.0, "quota": 1.0}
    at = assign(predictions, images, threshold=third, **options)
    assert pairs(at, 0, 0) == {(1, 0), (2, 0), (3, 0)}
    above = assign(predictions, images, threshold=np.nextafter(third, 1), **options)
    assert pairs(above, 0, 0) == {(2, 0)}


def test_the_best_query_is_rescued_below_the_threshold():
    predictions, images = known([0.0, 1 / 3, 0.0, 1 / 3])
    found = pairs(assign(predictions, images, alpha=0.0, threshold=0.9), 0, 0)
    assert found == {(1, 0)}


def test_of_equal_objects_the_first_takes_all():
    """The second owns no query, so nothing is assigned to it although its best is rescued."""
    predictions, images = known([1.0, 1 / 3, 0.0, 0.0], objects=2)
    found = pairs(assign(predictions, images, alpha=0.0, threshold=0.3, quota=1.0), 0, 0)
    assert found == {(0, 0), (1, 0)}


def test_a_count_may_be_spent_on_queries_of_another_object():
    """Owned queries only say how many; which ones is the object's own ranking."""
    boxes = torch.tensor([[0.4, 0.5, 0.4, 0.4], [0.6, 0.5, 0.4, 0.4]], dtype=torch.float64)
    images = [{"labels": torch.tensor([0, 1]), "boxes": boxes}]
    # Query 0 is object 0 exactly. Query 1 lies between them; its class makes it object 1's.
    places = torch.tensor([[0.4, 0.5, 0.4, 0.4], [0.5, 0.5, 0.4, 0.4], [0.9, 0.9, 0.1, 0.1]])
    logits = torch.tensor([[9.0, 9.0], [-1.0, 9.0], [-9.0, -9.0]])
    predictions = PredictionSet(logits.double()[None, None], places.double()[None, None])
    score = score_of(predictions, images, 0, 0)
    assert score.argmax(0)[:2].tolist() == [0, 1]
    found = pairs(assign(predictions, images, quota=1.0), 0, 0)
    assert found == reference.released_top_k(score, quota=1.0) == {(0, 0), (1, 1)}
    # Now query 0 suits object 1 better than its own query 1 does.
    logits[1] = torch.tensor([-9.0, -2.0])
    logits[0] = torch.tensor([9.0, 9.0])
    boxes[1] = torch.tensor([0.45, 0.5, 0.4, 0.4])
    predictions = PredictionSet(logits.double()[None, None], places.double()[None, None])
    score = score_of(predictions, images, 0, 0)
    assert score.argmax(0)[:2].tolist() == [0, 1]
    assert score[1].argmax() == 0
    found = pairs(assign(predictions, images, quota=1.0), 0, 0)
    assert found == reference.released_top_k(score, quota=1.0) == {(0, 0), (0, 1)}


@pytest.mark.parametrize("k", [1, 2, 6, 100])
def test_at_most_k_queries_an_object(k):
    predictions, images = known([1.0] * 10)
    assignment = assign(predictions, images, k=k, quota=1.0)
    assert pairs(assignment, 0, 0) == {(q, 0) for q in range(min(k, 10))}
    assert assignment.query.shape[-1] == min(k, 10)


@pytest.mark.parametrize("queries", [1, 2, 3])
def test_too_few_queries_for_the_quota(queries):
    """A quarter of fewer than four queries is none."""
    predictions, images = known([1.0] * queries)
    assert pairs(assign(predictions, images), 0, 0) == set()
    assert pairs(assign(predictions, images, quota=1.0), 0, 0) == {(q, 0) for q in range(queries)}


def test_fewer_queries_than_k():
    predictions, images = known([1.0, 0.0, 0.0, 0.0])
    assert pairs(assign(predictions, images, k=6), 0, 0) == {(0, 0)}


@pytest.mark.parametrize("counts", [[0, 0], [0, 3], [3, 0]])
def test_images_without_objects(counts):
    rng = np.random.default_rng(0)
    images = make_images(rng, counts)
    predictions = make_predictions(rng, images, queries=40)
    assignment = assign(predictions, images, quota=1.0)
    assert assignment.query.shape == (2, 2, max(counts), 6)
    for layer in range(2):
        for b, count in enumerate(counts):
            found = pairs(assignment, layer, b)
            if count == 0:
                assert found == set()
            else:
                score = score_of(predictions, images, layer, b)
                assert found == reference.released_top_k(score, quota=1.0)
                assert found


def test_padding_objects_take_nothing_from_others():
    """An image is assigned alone as in a batch, whatever the other images hold."""
    rng = np.random.default_rng(3)
    images = make_images(rng, [2, 9, 0])
    predictions = make_predictions(rng, images, queries=60)
    together = assign(predictions, images)
    for b, image in enumerate(images):
        alone = PredictionSet(predictions.logits[:, b : b + 1], predictions.boxes[:, b : b + 1])
        assignment = assign(alone, [image])
        for layer in range(2):
            if within_quota(score_of(predictions, images, layer, b), 60):
                assert pairs(together, layer, b) == pairs(assignment, layer, 0)


def singles(objects, queries, draws=(1, 1)):
    """`objects` apart from each other, query i exactly on object i, the rest on nothing."""
    side = math.ceil(math.sqrt(objects))
    cells = [((i % side + 0.5) / side, (i // side + 0.5) / side) for i in range(objects)]
    boxes = torch.tensor([[x, y, 0.4 / side, 0.4 / side] for x, y in cells], dtype=torch.float64)
    images = [{"labels": torch.zeros(objects).long(), "boxes": boxes} for _ in range(draws[1])]
    nowhere = torch.tensor([0.5, 0.5, 1e-6, 1e-6], dtype=torch.float64).repeat(queries - objects, 1)
    places = torch.cat((boxes, nowhere)).expand(*draws, -1, -1)
    return PredictionSet(torch.full((*draws, queries, 2), -4.0).double(), places), images


def test_the_quota_keeps_that_many():
    predictions, images = singles(objects=20, queries=40, draws=(4, 3))
    torch.manual_seed(0)
    assignment = assign(predictions, images)
    assert (assignment.valid.sum((2, 3)) == 10).all()  # a quarter of 40
    # Whatever is kept is positive: each object's own query or nothing.
    for layer in range(4):
        for b in range(3):
            assert all(q == g for q, g in pairs(assignment, layer, b))
    exact = assign(predictions, images, quota=0.5)
    assert (exact.valid.sum((2, 3)) == 20).all()


def test_beyond_the_quota_in_crowded_images():
    """With k out of the way: the quota exactly, from owned positives, best of each ranking."""
    beyond = 0
    for seed in range(40):
        images, predictions, queries = crowded(seed)
        assignment = assign(predictions, images, k=queries)
        for layer in range(2):
            for b in range(len(images)):
                score = score_of(predictions, images, layer, b)
                if within_quota(score, queries):
                    continue
                beyond += 1
                found = pairs(assignment, layer, b)
                assert len(found) == queries // 4
                positive, owner = reference.positives(score)
                for g in range(len(score)):
                    taken = {q for q, h in found if h == g}
                    assert len(taken) <= sum(owner[q] == g for q in positive)
                    assert taken == set(reference.ranked(score[g])[: len(taken)])
    assert beyond > 50


@pytest.mark.parametrize(("queries", "kept"), [(41, 10), (43, 10), (44, 11), (300, 20)])
def test_the_quota_rounds_down(queries, kept):
    predictions, images = singles(objects=20, queries=queries)
    assert assign(predictions, images).valid.sum() == kept


def test_the_quota_chooses_uniformly():
    """Over 600 draws each of 20 positive queries is kept about half of the time."""
    predictions, images = singles(objects=20, queries=40, draws=(100, 6))
    torch.manual_seed(0)
    valid = assign(predictions, images).valid[..., 0].double()
    kept = valid.mean((0, 1))
    assert (kept - 0.5).abs().max() < 0.1  # five standard deviations
    # Draws of layers and of images are independent: pairs agree in about half of the objects.
    assert ((valid[0] == valid[1]).double().mean() - 0.5).abs() < 0.2
    assert ((valid[:, 0] == valid[:, 1]).double().mean() - 0.5).abs() < 0.1


def test_the_quota_counts_what_it_kept():
    """Two objects share the quota as their positive queries do, 12 to 36 here."""
    predictions, images = known([1.0] * 48)
    images[0]["labels"] = torch.tensor([0, 1])
    images[0]["boxes"] = images[0]["boxes"].repeat(2, 1)
    logits = torch.full((400, 1, 48, 2), -4.0).double()
    logits[:, :, :12, 0] = 4.0
    logits[:, :, 12:, 1] = 4.0
    predictions = PredictionSet(logits, predictions.boxes.expand(400, -1, -1, -1))
    torch.manual_seed(0)
    counts = assign(predictions, images, k=48).valid.sum(-1)[:, 0].double()
    assert (counts.sum(-1) == 12).all()
    assert counts[:, 0].mean().item() == pytest.approx(12 * 12 / 48, abs=0.4)
    assert counts[:, 0].std() > 0.5


def test_the_draw_is_seeded_and_matters_only_beyond_the_quota():
    predictions, images = singles(objects=20, queries=40)

    def draw(seed, **options):
        torch.manual_seed(seed)
        return assign(predictions, images, **options).valid

    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))
    assert torch.equal(draw(1, quota=0.5), draw(2, quota=0.5))


def test_the_scores_of_the_pairs_are_returned():
    rng = np.random.default_rng(0)
    images = make_images(rng, [4])
    predictions = make_predictions(rng, images, queries=60)
    assignment = assign(predictions, images)
    score = score_of(predictions, images, 1, 0)
    for g in range(4):
        query = assignment.query[1, 0, g].numpy()
        np.testing.assert_allclose(assignment.score[1, 0, g], score[g, query], atol=1e-12)
