"""Mixed precision: which dtype a step computes in, and how its gradients survive that."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..errors import ConfigError

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}
LEAST_SCALE = 1.0  # gradients that aren't finite at a lower one would not be without any


class Precision:
    """Autocast, and for float16 a scale that keeps small gradients from vanishing.

    Matching, losses and masks take no part in it, see `ms_detr.supervision.Criterion`.

    Args:
        device: of the model.
        dtype: bfloat16 or float16; None computes in the dtype of the weights.

    Attributes:
        skipped: steps that changed nothing, since the scale was too large for their gradients.
    """

    def __init__(self, device: torch.device | str, dtype: str | None = None):
        self.device_type = torch.device(device).type
        if dtype == "float16" and self.device_type == "cpu":
            raise ConfigError("train.amp.dtype=float16 needs a GPU; on the CPU take bfloat16")
        self.dtype_name = dtype
        self.dtype = None if dtype is None else DTYPES[dtype]
        self.scaler = torch.amp.GradScaler(self.device_type, enabled=self.dtype is torch.float16)
        self.skipped = 0

    def autocast(self) -> torch.autocast:
        """A context for the forward pass."""
        return torch.autocast(self.device_type, self.dtype, enabled=self.dtype is not None)

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a scalar loss, scaled."""
        self.scaler.scale(loss).backward()

    def unscale(self, optimizer: torch.optim.Optimizer) -> None:
        """Give the gradients of all parts their own size, once in a step."""
        self.scaler.unscale_(optimizer)

    def may_overflow(self) -> bool:
        """Whether there is a scale, by which gradients may overflow."""
        return self.scaler.is_enabled()

    def scale_is_to_blame(self) -> bool:
        """Whether gradients that aren't finite may be so by the scale, and a lower one may help."""
        return self.may_overflow() and self.scaler.get_scale() >= LEAST_SCALE

    def give_up(self) -> None:
        """Let go of gradients that were unscaled, without a step; the scale stays."""
        if self.may_overflow():
            self.scaler.update(self.scaler.get_scale())

    def step(self, optimizer: torch.optim.Optimizer) -> bool:
        """Change the weights, unless the gradients overflowed; adapt the scale.

        Returns:
            Whether the weights were changed; the same in all processes.
        """
        before = self.scaler.get_scale()
        self.scaler.step(optimizer)
        self.scaler.update()
        overflowed = self.scaler.get_scale() < before
        self.skipped += overflowed
        return not overflowed

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs of the scale."""
        return {"scaler": self.scaler.state_dict(), "skipped": self.skipped}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state of `state_dict`. Only where gradients `may_overflow` is there one."""
        self.scaler.load_state_dict(state["scaler"])
        self.skipped = int(state["skipped"])
