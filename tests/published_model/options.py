"""What tells the models apart."""

from dataclasses import dataclass

# Where the one-to-many heads of the paper's Fig. 4 look, by the project's names.
INTERNAL = {
    "a": "decoder.ffn",
    "b": "decoder.ffn",
    "c": "decoder.cross_attention",
    "d": "decoder.self_attention",
}
CROSS_FIRST = ("b", "c")


@dataclass(frozen=True)
class Options:
    """A model.

    implementation: of MS-DETR, by its letter in the paper's Fig. 4; None is the baseline.
    mixed_selection, look_forward_twice: the ++.
    two_stage: else queries and their points are learned; refinement needs no proposals.
    index_merge: one-to-many pairs are laid over the one-to-one pairs.
    """

    queries: int
    heads: int = 8
    implementation: str | None = "c"
    mixed_selection: bool = False
    look_forward_twice: bool = False
    two_stage: bool = True
    refinement: bool = True
    index_merge: bool = False
