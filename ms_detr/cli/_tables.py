"""What runs have led to, as tables."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ._runs import Run

if TYPE_CHECKING:
    from ms_detr.evaluation import Difference

TASKS = {
    "bbox": "AP",
    "bbox_nms": "AP after NMS",
    "segm": "mask AP",
    "segm_nms": "mask AP after NMS",
}


def measured_tasks(runs: Sequence[Run]) -> list[str]:
    """Return the tasks for a table: those of boxes, and what else some run was evaluated on."""
    return [
        task
        for task in TASKS
        if task.startswith("bbox") or any(run.ap(task) is not None for run in runs)
    ]


def ap_table(
    keys: Sequence[str], rows: Sequence[tuple[Sequence[str], Sequence[Run]]], tasks: Sequence[str]
) -> str:
    """Return a Markdown table with a row for all runs that differ in nothing but their seed.

    A row has cells for ``keys``, the mean AP over the seeds with the single values, and the time
    of an iteration, which is the mean of medians.
    """
    from tabulate import tabulate

    titles = [cell for task in tasks for cell in (TASKS[task], "by seed")]
    headers = (*keys, *titles, "s an iteration")
    cells = [[*words, *_ap_cells(runs, tasks), _step_cell(runs)] for words, runs in rows]
    return tabulate(cells, headers, tablefmt="pipe", disable_numparse=True)


def difference_table(first: str, found: "Mapping[str, Mapping[str, Difference]]") -> str:
    """Return a Markdown table of differences to a name, as `compare_trainings` has found them."""
    from tabulate import tabulate

    rows = [
        [
            name,
            TASKS[task],
            "none" if math.isnan(each.difference) else f"{each.difference:+.1f}",
            f"{each.low:+.1f} to {each.high:+.1f}" if each.draws else "none",
            f"{each.better:.3f}" if each.draws else "none",
        ]
        for task, others in found.items()
        for name, each in others.items()
    ]
    headers = ("run", "of", f"above {first}", "95% interval", f"p(above {first})")
    return tabulate(rows, headers, tablefmt="pipe", disable_numparse=True)


def course_table(runs: Sequence[Run], task: str = "bbox") -> str:
    """Return a Markdown table of AP, a row a name and a column an iteration: means over seeds."""
    from tabulate import tabulate

    courses: dict[str, list[dict[int, float]]] = {}
    for run in runs:
        courses.setdefault(run.name, []).append(run.course(task))
    iterations = sorted({at for of in courses.values() for course in of for at in course})
    rows = []
    for name, of in courses.items():
        values = ([course[at] for course in of if at in course] for at in iterations)
        rows.append([name, *(f"{statistics.mean(v):.1f}" if v else "" for v in values)])
    headers = ("iteration", *map(str, iterations))
    return tabulate(rows, headers, tablefmt="pipe", disable_numparse=True)


def _step_cell(runs: Sequence[Run]) -> str:
    times = [seconds for run in runs if (seconds := run.step_seconds()) is not None]
    return f"{statistics.mean(times):.3f}" if times else "none"


def _ap_cells(runs: Sequence[Run], tasks: Sequence[str]) -> list[str]:
    cells = []
    for task in tasks:
        values = [value for run in runs if (value := run.ap(task)) is not None]
        cells.append(f"{statistics.mean(values):.1f}" if values else "none")
        cells.append(" / ".join(f"{value:.1f}" for value in values))
    return cells
