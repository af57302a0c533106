"""The order of the training data."""

from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ms_detr.data import TrainingSampler, iterations_per_epoch

seeds = st.integers(0, 2**40)


@st.composite
def sizes(draw):
    """A dataset size and a total batch size, and a number of ranks that divides the latter."""
    world_size = draw(st.integers(1, 4))
    total_batch_size = world_size * draw(st.integers(1, 4))
    return draw(st.integers(total_batch_size, 40)), total_batch_size, world_size


def take(count: int, *arguments, start: int = 0, **keywords) -> list:
    sampler = TrainingSampler(*arguments, **keywords)
    sampler.start_at(start)
    return list(islice(sampler, count))


@given(sizes=sizes(), seed=seeds)
def test_every_epoch_is_a_permutation_without_the_rest(sizes, seed):
    size, total, _ = sizes
    steps = iterations_per_epoch(size, total)
    assert steps == size // total
    batches = take(2 * steps, size, total, seed)
    for epoch in (0, 1):
        keys = [key for batch in batches[epoch * steps : (epoch + 1) * steps] for key in batch]
        assert [key[0] for key in keys] == [epoch] * (steps * total)
        assert [key[1] for key in keys] == list(range(steps * total))
        images = [key[2] for key in keys]
        assert len(set(images)) == len(images) and set(images) <= set(range(size))


@given(sizes=sizes(), seed=seeds)
def test_the_batch_does_not_depend_on_the_number_of_processes(sizes, seed):
    size, total, world_size = sizes
    alone = take(7, size, total, seed)
    ranks = [
        take(7, size, total, seed, rank=rank, world_size=world_size) for rank in range(world_size)
    ]
    joined = [[key for part in parts for key in part] for parts in zip(*ranks, strict=True)]
    assert joined == alone
    assert {len(batch) for rank in ranks for batch in rank} == {total // world_size}


@given(sizes=sizes(), seed=seeds, start=st.integers(0, 50))
def test_starting_later_is_going_on(sizes, seed, start):
    size, total, world_size = sizes
    unbroken = take(start + 6, size, total, seed, 0, world_size)
    assert take(6, size, total, seed, 0, world_size, start=start) == unbroken[start:]


@given(seed=seeds)
def test_epochs_and_seeds_differ(seed):
    orders = [
        [key[2] for batch in take(4, 40, 10, s, start=start) for key in batch]
        for s, start in ((seed, 0), (seed, 4), (seed, 8), (seed + 1, 0))
    ]
    assert len({tuple(order) for order in orders}) == 4


def test_the_order_is_really_shuffled():
    """Over many epochs every image comes first about equally often."""
    first = [take(1, 10, 2, 0, start=5 * epoch)[0][0][2] for epoch in range(1000)]
    counts = [first.count(image) for image in range(10)]
    assert min(counts) > 60 and max(counts) < 140


def test_iterating_again_starts_again():
    sampler = TrainingSampler(9, 2, 0)
    sampler.start_at(3)
    assert list(islice(sampler, 5)) == list(islice(sampler, 5))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((5, 8, 0), r"5 images.*dataloader\.train\.total_batch_size \(now 8\) to 5"),
        ((5, 0, 0), r"dataloader\.train\.total_batch_size must be at least 1"),
        ((50, 8, 0, 0, 3), r"total_batch_size=8 .*multiple of 3"),
        ((50, 8, None), r"train\.seed must be .* got None"),
        ((50, 8, -1), r"train\.seed must be .* got -1"),
    ],
)
def test_wrong_arguments(arguments, message: str):
    with pytest.raises(ValueError, match=message):
        TrainingSampler(*arguments)
