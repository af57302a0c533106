"""Annotations that have the right form and can't be right: how they are told.

Training would go on with them, to no end. Few of them are a warning, with examples and the likely
cause; where most are wrong, the file means something else than COCO's format, and that is an error.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from .remarks import Remark


@dataclass(frozen=True)
class Finding:
    """Annotations that share a fault.

    Args:
        rows: their indices.
        what: they do, after words such as "all 40 boxes".
        remedy: what can be done, a sentence.
        kind: "boxes" or "masks".
        certain: an error where most have such faults, not only a warning.
        single: each is wrong by itself, and says nothing of how the others are meant.
    """

    rows: np.ndarray
    what: str
    remedy: str
    kind: str = "boxes"
    certain: bool = True
    single: bool = False


def remark_on(
    findings: Sequence[Finding], total: int, describe: Callable[[int], str]
) -> Remark | None:
    """Put findings into one line: an error if what is certain concerns more than half of them.

    Args:
        total: number of boxes, or of masks.
        describe: says in few words which annotation a row is.
    """

    def text(finding: Finding) -> str:
        count = len(finding.rows)
        share = f"all {count:,}" if count == total else f"{count:,} of {total:,}"
        examples = "; ".join(map(describe, finding.rows[:2]))
        return f"{share} {finding.kind} {finding.what} ({examples}). {finding.remedy}"

    if not findings:
        return None
    message = f": {' '.join(map(text, findings))}"
    wrong = sum(len(finding.rows) for finding in findings if finding.certain)
    error = (
        f"{message} If the file is right nevertheless, set trust_annotations=true beside its "
        "name in the config (dataloader.train.dataset or dataloader.test.dataset)."
    )
    return Remark(message, error if 2 * wrong > total else None)


def report(
    findings: Sequence[Finding],
    total: int,
    describe: Callable[[int], str],
    json_file: str,
    trusted: bool,
) -> None:
    """Warn of findings at once, as `remark_on` puts them.

    Raises:
        DataError: most are wrong, and they aren't trusted.
    """
    remark = remark_on(findings, total, describe)
    if remark is not None:
        remark.tell(json_file, trusted)
