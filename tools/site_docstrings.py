"""Docstrings as the site's generators read them; an extension of griffe, which mkdocstrings uses.

Ours name several arguments at once (``width, height: in pixels``), and refer to others as Sphinx
does. Both are put into plain Google style with Markdown.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

SECTION = re.compile(r"^( *)(Args|Keyword Args|Attributes):\n((?:\1 +.*\n|\n)+)", re.M)
SEVERAL = re.compile(r"(?P<indent> *)(?P<names>\w+(?:, \w+)+): (?P<text>.*(?:\n(?P=indent) +.*)*)")
ROLE = re.compile(r":(?:func|class|mod|meth|data):(`[^`]+`)")


def plain(docstring: str) -> str:
    """A docstring with one entry for each argument, without Sphinx's roles and double colons."""
    text = SECTION.sub(lambda found: SEVERAL.sub(_one_each, found[0]), docstring + "\n")
    return re.sub(r"::$", ":", ROLE.sub(r"\1", text), flags=re.M).rstrip("\n")


def _one_each(found: re.Match[str]) -> str:
    entry = f"{found['indent']}{{}}: {found['text'].replace('{', '{{').replace('}', '}}')}"
    return "\n".join(entry.format(name) for name in found["names"].split(", "))


class PlainDocstrings(griffe.Extension):
    """Makes every docstring `plain` when griffe has collected its object."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Change the object's docstring in place."""
        if obj.docstring is not None:
            obj.docstring.value = plain(obj.docstring.value)
