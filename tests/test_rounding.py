"""The measure of rounding lets another order of sums pass, and nothing that loses digits."""

import pytest
import torch

from .rounding import assert_rounded, assert_typical


@pytest.fixture
def product():
    """The factors of a product in float32, and the exact one."""
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(64, 64, generator=generator) for _ in range(2))
    return a, b, a.double() @ b.double()


def test_another_order_of_sums_passes(product):
    a, b, exact = product
    backwards = (a.flip(1)[:, :, None] * b.flip(0)).sum(1)
    for one, other in ((a @ b, backwards), (backwards, a @ b)):
        assert_typical(one, exact, other)
        assert_rounded(one, exact, other)


def test_one_last_rounding_passes_for_half_precision_alone(product):
    a, b, exact = product
    assert_rounded((a @ b).bfloat16(), exact, a @ b)
    with pytest.raises(AssertionError):
        assert_rounded((a @ b).bfloat16().float(), exact, a @ b)
    with pytest.raises(AssertionError):
        assert_rounded(a.bfloat16() @ b.bfloat16(), exact, a @ b)


def test_lost_digits_fail(product):
    a, b, exact = product
    nearly = a * (1 + 2**-18 * torch.randn(64, 64, generator=torch.Generator().manual_seed(1)))
    for check in (assert_typical, assert_rounded):
        with pytest.raises(AssertionError):
            check(nearly @ b, exact, a @ b)


def test_a_single_wrong_value_fails(product):
    a, b, exact = product
    found = a @ b
    found[3, 5] += 1e-3
    with pytest.raises(AssertionError):
        assert_rounded(found, exact, a @ b)
