"""A JSON file read through a window: lists of millions of entries, some thousands at a time.

The values are the standard library's, in memory that doesn't grow with the file. A window is cut
where an entry seems to end. What was cut is parsed as a list by itself, and a wrong cut doesn't
parse, so the guess can cost time and nothing else.
"""

from __future__ import annotations

import codecs
import gc
import json
import os
import re
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

from ..errors import DataError

WINDOW = 1 << 22  # bytes that are read at a time
TAIL = 1 << 16  # characters at a window's end in which an entry's end is looked for
ENTRIES = 4096  # so many at least are handed out at a time, but for the last

_SPACE = re.compile(r"[ \t\n\r]*")
_BETWEEN = re.compile(r"\}\s*,\s*\{")
_SLACK = 16  # characters: a number or word that ends so near the window's end may go on

Pairs = list[tuple[str, Any]]
Member = tuple[str, Any, bool]


def read_members(
    path: str | os.PathLike, lists: Collection[str], entry_of: Callable[[Pairs], Any]
) -> Iterator[Member]:
    """Yield the members of the object that a file in UTF-8, UTF-16 or UTF-32 holds.

    Args:
        lists: keys whose values, if these are lists, come in parts.
        entry_of: makes every object but the outermost one of its pairs.

    Yields:
        Keys and values, and whether the value is a further part of the list before; nothing if the
        file holds something else than an object.

    Raises:
        DataError: the file is no JSON; says where.
    """
    try:
        with open(path, "rb") as file, _uncollected():
            yield from _Window(file, entry_of).members(lists)
    except RecursionError:
        raise DataError(f"{path} is not COCO's format: it is nested too deeply.") from None
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not a JSON file in UTF-8: {error.reason} at byte {error.start}."
        ) from error
    except DataError:  # of who takes the members
        raise
    except ValueError as error:
        raise DataError(f"{path} is not a JSON file: {error}") from error


@contextmanager
def _uncollected() -> Iterator[None]:
    """Keep the garbage collector still, which would look through all new dicts for cycles."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


class _Window:
    """The part of a file that is looked at, and the place in it.

    Args:
        file: at its beginning.
        entry_of: see `read_members`.
    """

    def __init__(self, file: BinaryIO, entry_of: Callable[[Pairs], Any]):
        self._file = file
        start = file.read(4)
        self._decoder = codecs.getincrementaldecoder(json.detect_encoding(start))()
        self._bytes = len(start)
        self._text = self._decoder.decode(start)
        self._position = 0  # in the text
        self._before, self._lines, self._column = 0, 0, 0  # characters that were left behind
        self._ended = False
        self._one_by_one = 0  # up to this character of the file
        self._decode = json.JSONDecoder(object_pairs_hook=entry_of).raw_decode

    def members(self, lists: Collection[str]) -> Iterator[Member]:
        if self._ahead() == "{":
            yield from self._object(lists)
        else:
            self._value()
        if self._ahead():
            raise self._error("Extra data")

    def _object(self, lists: Collection[str]) -> Iterator[Member]:
        self._position += 1
        if self._ahead() == "}":
            self._position += 1
            return
        while True:
            if self._ahead() != '"':
                raise self._error("Expecting property name enclosed in double quotes")
            key = self._value()
            if self._ahead() != ":":
                raise self._error("Expecting ':' delimiter")
            self._position += 1
            if self._ahead() == "[" and key in lists:
                for number, entries in enumerate(self._list()):
                    yield key, entries, number > 0
            else:
                yield key, self._value(), False
            if self._delimiter("}") == "}":
                return

    def _list(self) -> Iterator[list[Any]]:
        self._position += 1
        if self._ahead() == "]":
            self._position += 1
            yield []
            return
        entries: list[Any] = []
        while True:
            entries += self._several() or [self._value()]
            ended = self._delimiter("]") == "]"
            if ended or len(entries) >= ENTRIES:
                yield entries
                entries = []
            if ended:
                return

    def _several(self) -> list[Any]:
        """Return the entries from here on that the window holds whole; none if that is unclear."""
        if self._before + self._position < self._one_by_one:
            return []
        self._ahead()
        if len(self._text) - self._position < WINDOW // 2:
            self._more()
        tail = max(self._position, len(self._text) - TAIL)
        ends = [match.start() + 1 for match in _BETWEEN.finditer(self._text, tail)]
        if not ends:
            return []
        try:
            found, length = self._decode(f"[{self._text[self._position : ends[-1]]}]")
        except json.JSONDecodeError:
            self._one_by_one = self._before + ends[-1]
            return []
        # To the cut, or to the end of the whole list.
        self._position += length - 2
        return found

    def _value(self) -> Any:
        """Return the value that begins here."""
        self._ahead()
        while True:
            try:
                value, end = self._decode(self._text, self._position)
            except json.JSONDecodeError as error:
                cut = error.pos >= len(self._text) - _SLACK or "Unterminated" in error.msg
                if cut and self._more():
                    continue
                self._position = error.pos
                raise self._error(error.msg) from error
            if len(self._text) - end >= _SLACK or not self._more():
                self._position = end
                return value

    def _delimiter(self, end: str) -> str:
        """Pass over a comma, or over the end of a list or object; returns it."""
        found = self._ahead()
        if found not in (",", end) or not found:
            raise self._error("Expecting ',' delimiter")
        self._position += 1
        return found

    def _ahead(self) -> str:
        """Pass over blanks and return the character behind them; "" at the end of the file."""
        while True:
            blanks = _SPACE.match(self._text, self._position)
            assert blanks is not None
            self._position = blanks.end()
            if self._position < len(self._text):
                return self._text[self._position]
            if not self._more():
                return ""

    def _more(self) -> bool:
        """Move the window on, or let it grow; returns whether there was more in the file."""
        if self._ended:
            return False
        left = len(self._text) - self._position
        content = self._file.read(max(WINDOW, left))
        self._ended = not content
        pending = len(self._decoder.getstate()[0])
        try:
            text = self._decoder.decode(content, final=self._ended)
        except UnicodeDecodeError as error:
            error.start += self._bytes - pending
            raise
        if self._ended:
            return False
        self._bytes += len(content)
        self._lines, self._column = self._place(self._position)
        self._before += self._position
        self._text = self._text[self._position :] + text
        self._position = 0
        return True

    def _place(self, position: int) -> tuple[int, int]:
        """Return how many lines and, in the last one, characters are before a place in the text."""
        lines = self._text.count("\n", 0, position)
        if not lines:
            return self._lines, self._column + position
        return self._lines + lines, position - self._text.rindex("\n", 0, position) - 1

    def _error(self, what: str) -> ValueError:
        """Return the error about what is wrong here, in the words of the standard library."""
        lines, column = self._place(self._position)
        place = self._before + self._position
        return ValueError(f"{what}: line {lines + 1} column {column + 1} (char {place})")
