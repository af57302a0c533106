"""What rounding may do to a result, taken from float64 and from a second way to compute the same.

Last bits differ between instruction sets, libraries and numbers of threads: a fixed tolerance
that holds on one machine says nothing about the next.
"""

import torch
from torch import Tensor

# The rounding of a sum grows with the square root of how many terms are added one after another,
# at worst with their number: one running sum errs four times, or sixteen, as much as the sixteen
# side by side of a vector of AVX-512.
TYPICAL, WORST = 4, 16


def assert_typical(actual: Tensor, exact: Tensor, peer: Tensor, name: str = "") -> None:
    """`actual` errs on average as `peer` does, another way to the same in the same precision."""
    error, of_peer = (x.double() - exact for x in (actual, peer))
    assert error.norm() <= TYPICAL * of_peer.norm(), name


def assert_rounded(actual: Tensor, exact: Tensor, peer: Tensor) -> None:
    """`actual` errs as the float32 `peer` does, or by the last rounding to its own dtype."""
    last = torch.finfo(actual.dtype).eps / 2 * exact.abs()
    error = ((actual.double() - exact).abs() - last).clamp(min=0)
    of_peer = (peer.double() - exact).abs()
    assert error.norm() <= TYPICAL * of_peer.norm()
    assert error.max() <= WORST * of_peer.max()
