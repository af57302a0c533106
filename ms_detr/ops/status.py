"""Which implementations of the operator this installation has."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class OperatorStatus:
    """``compiled``: a compiled kernel is in use; ``reason`` and ``build_command`` if not."""

    compiled: bool
    reason: str
    build_command: str


def status() -> OperatorStatus:
    """Tell what runs when ``deformable_attention`` is called."""
    return OperatorStatus(
        compiled=False,
        reason="this version has the pure-torch operator only, which runs everywhere",
        build_command="",
    )
