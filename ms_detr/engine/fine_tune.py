"""Starting from the weights of a model with other classes, queries or parts."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from ..errors import CheckpointError, listed
from ..structures import HasRows, Rows
from .state import plain_state, torn_names
from .weights import weights_of

logger = logging.getLogger(__name__)

MAX_NAMED = 6


def fine_tune(
    model: nn.Module, source: str, theirs: Sequence[str] = (), ours: Sequence[str] = ()
) -> None:
    """Take over from weights what fits a model, and say what that is; the rest stays as it is.

    A tensor of the same name and shape is taken whole. Of one with a row a class, such as a class
    head, the rows of the classes that both models know by name are taken; of one with numbered
    rows, such as the queries, those that both have.

    Args:
        source: a file or a URL.
        theirs, ours: names of the classes that the weights and the model know, in their order;
            empty where they are unknown.

    Raises:
        CheckpointError: nothing fits, or the file can't be read.
    """
    state = weights_of(source, model)
    own = model.state_dict()
    rows = rows_of(model)
    new_state, found = {}, defaultdict(list)
    for name, tensor in own.items():
        taken, how = _taken(tensor, state.get(name), rows.get(name), theirs, ours)
        if taken is not None:
            new_state[name] = taken
        if not name.endswith("num_batches_tracked"):
            found[how].append(name)
    if not new_state:
        raise CheckpointError(
            f"{source} has nothing that fits the model: no tensor has the name and shape of one of "
            "its own"
        )
    if torn := torn_names(own, new_state):
        logger.warning(
            "train.fine_tune: the model shares what differs in the weights (%s): that of the last "
            "one is taken", listed(torn, MAX_NAMED),
        )  # fmt: skip
    found["in the weights alone"] = [name for name in state if name not in own]
    model.load_state_dict(plain_state(new_state), strict=False)
    logger.info("train.fine_tune: from %s %s", source, _told(found))
    if theirs and ours:
        both = [name for name in ours if name in set(theirs)]
        logger.info(
            "%d of %d classes are known to the weights (%s)",
            len(both), len(ours), listed(both, MAX_NAMED) or "none",
        )  # fmt: skip


def rows_of(model: nn.Module) -> dict[str, Rows]:
    """What the rows of a model's parameters and buffers stand for, by their names."""
    found: dict[str, Rows] = {}
    parts = [(name, part) for name, part in model.named_modules() if isinstance(part, HasRows)]
    for name, part in reversed(parts):  # from the inside
        found.update({f"{name}.{inner}".lstrip("."): kind for inner, kind in part.rows().items()})
    return found


def _taken(
    own: Tensor,
    given: Tensor | None,
    rows: Rows | None,
    theirs: Sequence[str],
    ours: Sequence[str],
) -> tuple[Tensor | None, str]:
    """What becomes of a tensor, None if it stays; and that in words."""
    if given is None:
        return None, "new"
    by_name = rows is Rows.CLASSES and theirs and ours and given.shape[1:] == own.shape[1:]
    if by_name and list(theirs) != list(ours):
        return _by_class(own, given, theirs, ours), "by class"
    if given.shape == own.shape:
        return given, "whole"
    if rows is Rows.NUMBERED and given.shape[1:] == own.shape[1:]:
        result, count = own.clone(), min(len(own), len(given))
        result[:count] = given[:count]
        return result, "in part"
    return None, "new, of another shape"


def _by_class(own: Tensor, given: Tensor, theirs: Sequence[str], ours: Sequence[str]) -> Tensor:
    """Rows by the classes' names; those behind all classes, such as that of nothing, as well."""
    if len(theirs) > len(given) or len(ours) > len(own):
        raise CheckpointError(
            f"a class head has {len(given)} rows in the weights, for {len(theirs)} classes, and "
            f"{len(own)} in the model, for {len(ours)}"
        )
    result = own.clone()
    for row, name in enumerate(ours):
        if name in theirs:
            result[row] = given[theirs.index(name)]
    further = len(own) - len(ours)
    if further > 0 and further == len(given) - len(theirs):
        result[-further:] = given[-further:]
    return result


def _told(found: Mapping[str, Sequence[str]]) -> str:
    parts = [
        f"{len(names)} tensors {how}" + ("" if how == "whole" else f" ({listed(names, MAX_NAMED)})")
        for how, names in found.items()
        if names
    ]
    return "; ".join(parts)
