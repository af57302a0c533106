"""What a run's log tells: versions, times, warnings."""

from __future__ import annotations

import datetime
import itertools
import re
from contextlib import suppress
from dataclasses import dataclass, field

STAMP = re.compile(r"\[(\d\d/\d\d \d\d:\d\d:\d\d)\] (.*)")
ENVIRONMENT = "environment:\n"  # with which each start of a run begins
MARKED = re.compile(r"(WARNING|ERROR|CRITICAL) \(\S+\): ")
LEAP_YEAR = 2000  # stamps have no year; this one has each day


@dataclass(frozen=True)
class Log:
    """The log of a run, over all its starts.

    Attributes:
        environment: versions and machine of the last start; empty if the log tells none.
        starts: how often the run was started or resumed.
        wall: time of all its processes together, without the time between them.
        warnings: warnings and errors, each once, the oldest first.
    """

    environment: str = ""
    starts: int = 0
    wall: datetime.timedelta = field(default_factory=datetime.timedelta)
    warnings: tuple[str, ...] = ()


def read_log(text: str) -> Log:
    """Read what `ms_detr.engine.logs` has written."""
    records: list[tuple[datetime.datetime, str]] = []
    for line in text.splitlines():
        if found := STAMP.match(line):
            with suppress(ValueError):  # no date: the line is damaged
                moment = datetime.datetime.strptime(f"{LEAP_YEAR}/{found[1]}", "%Y/%m/%d %H:%M:%S")
                records.append((moment, found[2]))
        elif records:
            records[-1] = (records[-1][0], f"{records[-1][1]}\n{line}")
    starts = [message for _, message in records if message.startswith(ENVIRONMENT)]
    wall = datetime.timedelta()
    for (before, _), (after, message) in itertools.pairwise(records):
        if not message.startswith(ENVIRONMENT):
            passed = after - before
            wall += passed if passed >= datetime.timedelta() else passed + _days_of_a_year()
    marked = [message for _, message in records if MARKED.match(message)]
    return Log(
        starts[-1].removeprefix(ENVIRONMENT).strip() if starts else "",
        len(starts),
        wall,
        tuple(dict.fromkeys(marked)),
    )


def _days_of_a_year() -> datetime.timedelta:
    return datetime.datetime(LEAP_YEAR + 1, 1, 1) - datetime.datetime(LEAP_YEAR, 1, 1)
