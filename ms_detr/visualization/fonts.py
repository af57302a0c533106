"""Fonts that have the characters of a text, whatever its script."""

from __future__ import annotations

import logging
import unicodedata
import warnings
from functools import cache

from matplotlib import font_manager
from matplotlib.figure import Figure
from matplotlib.ft2font import FT2Font
from matplotlib.text import Text

logger = logging.getLogger(__name__)

DEFAULT = "DejaVu Sans"  # comes with matplotlib
# They have a glyph for every character there is, the same for many.
PLACEHOLDERS = ("last resort", "lastresort")
# What has the glyphs of a script, by the first word of its characters' names.
ASIAN = {"CJK", "HIRAGANA", "KATAKANA", "HANGUL", "BOPOMOFO", "FULLWIDTH", "IDEOGRAPHIC"}


def families(text: str) -> list[str]:
    """Font families that together have a text's characters: matplotlib's own, then installed ones.

    What no installed font has is said once.
    """
    found = [DEFAULT]
    missing = frozenset(c for c in text if not c.isspace()) - _characters(_default_file())
    while missing:
        family, covered = _best_font(missing)
        if not covered:
            _say_missing("".join(sorted(missing)))
            break
        found.append(family)
        missing -= covered
    return found


def fit_fonts(figure: Figure) -> None:
    """Give every text in a figure the fonts that it needs."""
    for text in figure.findobj(Text):
        if not text.get_text().isascii():
            text.set_fontfamily(families(text.get_text()))


def _default_file() -> str:
    return font_manager.findfont(DEFAULT)


@cache
def _best_font(wanted: frozenset[str]) -> tuple[str, frozenset[str]]:
    """The installed font that has most of the characters, and those that it has."""
    # Asked again, for matplotlib's list is of the day when it was first imported.
    files = font_manager.findSystemFonts()
    known = {entry.fname: entry.name for entry in font_manager.fontManager.ttflist}
    best = max((*known, *files), key=lambda file: len(wanted & _characters(file)))
    if wanted & _characters(best) and best not in known:
        font_manager.fontManager.addfont(best)
        known[best] = font_manager.fontManager.ttflist[-1].name
    return known.get(best, DEFAULT), wanted & _characters(best)


@cache
def _characters(file: str) -> frozenset[str]:
    """What a font file has glyphs for; nothing where matplotlib can't read it."""
    try:
        font = FT2Font(file)
        if font.family_name.lower().startswith(PLACEHOLDERS):
            return frozenset()
        return frozenset(map(chr, font.get_charmap()))
    except (OSError, RuntimeError, ValueError):
        return frozenset()


@cache
def _say_missing(characters: str) -> None:
    scripts = {unicodedata.name(c, "").partition(" ")[0].partition("-")[0] for c in characters}
    font = "Noto Sans CJK (Debian, Ubuntu: apt install fonts-noto-cjk)"
    if not scripts & ASIAN:
        font = "Noto Sans (Debian, Ubuntu: apt install fonts-noto-core)"
    shown = characters if len(characters) <= 10 else f"{characters[:10]}..."
    warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from")  # matplotlib's, for each
    logger.warning(
        "no installed font has %s: boxes stand for them in pictures. Install one that has, such "
        "as %s",
        shown,
        font,
    )
