"""The repository's Markdown as pages of a site: links, formulas, and the files they lead to.

On GitHub a page links to any file of the repository. A site has pages alone, so that a link to a
file or a folder leads to a page that shows it.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from latex2mathml.converter import convert

# Pages that have another place in the site than in the repository, where docs/ is the top.
PLACES = {
    "README.md": "index.md",
    "docs/README.md": "contents.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}
LANGUAGES = {".py": "python", ".toml": "toml", ".yml": "yaml", ".md": "markdown", ".sh": "bash"}
CODE = re.compile(r"^(?P<fence>```+).*?^(?P=fence)$|(?P<tick>`+)[^`].*?(?P=tick)", re.M | re.S)
# From the end of its text on, which may be code.
LINK = re.compile(r"\]\((?P<target>[^)\s#]*)(?P<anchor>#[^)\s]*)?\)")
BLOCK_FORMULA = re.compile(r"^```math\n(.*?)^```$", re.M | re.S)
FORMULA = re.compile(r"(?<![\w$])\$([^$\n]+)\$(?![\w$])")


def markdown_files(root: Path) -> list[Path]:
    """Every page that the repository has for its readers."""
    outside = [root / name for name in PLACES if "/" not in name]
    return [*outside, *sorted((root / "docs").rglob("*.md"))]


def page_of(name: str) -> str:
    """The site's page of a Markdown file, both as paths: the site's top is docs/."""
    return PLACES.get(name, name.removeprefix("docs/"))


@dataclass
class Pages:
    """Writes pages into a folder, with what they link to.

    Attributes:
        root: the repository.
        folder: where the pages go.
    """

    root: Path
    folder: Path
    _shown: set[str] = field(default_factory=set)

    def write_all(self) -> None:
        """Write every page, its pictures, and a page for each file or folder linked to."""
        shutil.copytree(self.root / "docs" / "images", self.folder / "images")
        for path in markdown_files(self.root):
            name = path.relative_to(self.root).as_posix()
            self.write(page_of(name), self.rewrite(path.read_text(), name))

    def write(self, page: str, text: str) -> None:
        """Write one page."""
        path = self.folder / page
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def rewrite(self, text: str, name: str) -> str:
        """The text of a file as the text of its page.

        Args:
            text: Markdown with links that are relative to the file.
            name: the file's path in the repository.

        Raises:
            FileNotFoundError: a link leads nowhere.
        """
        text = BLOCK_FORMULA.sub(lambda found: f"\n{formula(found[1], 'block')}\n", text)
        return outside_code(text, lambda part: self._links(inline_formulas(part), name))

    def _links(self, text: str, name: str) -> str:
        here = PurePosixPath(page_of(name)).parent

        def link(found: re.Match[str]) -> str:
            target = found["target"]
            if not target or "://" in target or target.startswith("mailto:"):
                return found[0]
            path = os.path.normpath(PurePosixPath(name).parent / target)
            place = os.path.relpath(self._place(path, name), here)
            return f"]({place}{found['anchor'] or ''})"

        return LINK.sub(link, text)

    def _place(self, path: str, name: str) -> str:
        """Where the site has a file or a folder; it is written where no page has it yet."""
        target = self.root / path
        if not target.exists():
            raise FileNotFoundError(f"{name} links to {path}, which isn't there")
        if path.endswith(".md") or path.startswith("docs/images/"):
            return page_of(path)
        place = f"source/{path}/index.md" if target.is_dir() else f"source/{path}.md"
        if place not in self._shown:
            self._shown.add(place)
            self.write(place, self._listing(path) if target.is_dir() else shown(target, path))
        return place

    def _listing(self, path: str) -> str:
        """The page of a folder: its files, each of them a page."""
        files = sorted(
            file for file in (self.root / path).iterdir() if file.suffix in LANGUAGES
        )  # fmt: skip
        here = PurePosixPath(f"source/{path}")
        places = [self._place(f"{path}/{file.name}", path) for file in files]
        lines = [
            f"- [`{file.name}`]({os.path.relpath(place, here)})"
            for file, place in zip(files, places, strict=True)
        ]
        return "\n".join([f"# `{path}`", "", *lines, ""])


def shown(file: Path, path: str) -> str:
    """The page of a file that isn't Markdown: the file, with numbered lines."""
    language = LANGUAGES.get(file.suffix, "text")
    return f'# `{path}`\n\n``````{language} linenums="1"\n{file.read_text().rstrip()}\n``````\n'


def outside_code(text: str, change: Callable[[str], str]) -> str:
    """Change a text where it is neither a fenced block nor in backticks."""

    def parts() -> Iterator[str]:
        end = 0
        for code in CODE.finditer(text):
            yield change(text[end : code.start()])
            yield code[0]
            end = code.end()
        yield change(text[end:])

    return "".join(parts())


def formula(latex: str, display: str) -> str:
    """A formula in MathML, which browsers draw without a script or a font from elsewhere."""
    return convert(latex.strip(), display=display)


def inline_formulas(text: str) -> str:
    """A text with its formulas, between single dollar signs as on GitHub, in MathML."""
    return FORMULA.sub(lambda found: f"<span>{formula(found[1], 'inline')}</span>", text)
