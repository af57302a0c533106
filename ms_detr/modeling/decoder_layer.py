"""A decoder layer is an ordered tuple of sublayers with taps between them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import cast

from torch import Tensor, nn

from ..errors import ConfigError
from ..layers.transformer import LayerContext, Sublayer


class Tap(nn.Module):
    """Hands out the queries behind one sublayer, through an FFN of its own if it has one.

    The FFN is the auxiliary FFN of the published MS-DETR code: a side branch that the rest of the
    layer never sees.

    Args:
        ffn: the network; None: the queries are handed out as they are.
    """

    def __init__(self, ffn: nn.Module | None = None):
        super().__init__()
        self.ffn = ffn

    def forward(self, x: Tensor) -> Tensor:
        """(B, Q, C) -> (B, Q, C)."""
        return x if self.ffn is None else self.ffn(x)


class Taps(nn.ModuleDict):
    """Taps by the name of the sublayer they sit behind; None stands for no tap."""

    def __init__(self, **taps: Tap | None):
        super().__init__({name: tap for name, tap in taps.items() if tap is not None})


class DecoderLayer(nn.Module):
    """Sublayers in a free order (MS-DETR, arXiv:2401.03989, Fig. 4).

    Args:
        order: names of the sublayers as they are run, e.g.
            ``("cross_attention", "self_attention", "ffn")``.
        taps: where queries are handed out inside the layer.
        sublayers: the sublayers by name.
    """

    def __init__(self, order: Sequence[str], taps: Taps | None = None, **sublayers: Sublayer):
        super().__init__()
        self.order = tuple(order)
        if sorted(self.order) != sorted(sublayers):
            raise ConfigError(
                f"model.decoder.layer.order {list(self.order)} must name each of the sublayers "
                f"{sorted(sublayers)} once"
            )
        self.sublayers = nn.ModuleDict(sublayers)
        self.taps = taps if taps is not None else Taps()
        unknown = set(self.taps) - set(self.order)
        if unknown:
            raise ConfigError(
                f"model.decoder.layer.taps: no sublayer {sorted(unknown)} to tap, "
                f"there are {list(self.order)}"
            )

    def with_taps(self, names: Collection[str]) -> DecoderLayer:
        """A layer of the same sublayers, with the taps of these names alone."""
        taps = {name: cast(Tap, tap) for name, tap in self.taps.items() if name in names}
        sublayers = {name: cast(Sublayer, sublayer) for name, sublayer in self.sublayers.items()}
        return DecoderLayer(self.order, Taps(**taps), **sublayers)

    def forward(
        self, x: Tensor, context: LayerContext, taps: Mapping[str, int] = MappingProxyType({})
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Run the layer.

        Args:
            x: (B, Q, C).
            taps: how many of the first queries are wanted of a tap, by its name.

        Returns:
            The layer's output (B, Q, C), and that of each wanted tap by its name.
        """
        tapped = {}
        for name in self.order:
            x = self.sublayers[name](x, context)
            if name in taps:
                tapped[name] = self.taps[name](x[:, : taps[name]])
        return x, tapped
