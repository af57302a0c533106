"""Tables of configs, and versions, against the files."""

import ast
import re

import pytest
import yaml

import ms_detr
from ms_detr.config import load

from .pages import DOCS, ROOT

ROW = re.compile(
    r"^\| \[`(?P<name>\w+)`\]\((?P<path>[\w./]+)\) \| .+? \| (?P<backbone>[^|]+) \| "
    r"(?P<queries>\d+) \| (?P<epochs>\d+) \| (?P<published>[^|]+) \|$",
    re.MULTILINE,
)
PAGES = (ROOT / "README.md", DOCS / "configs.md")
ROWS = [(page, match) for page in PAGES for match in ROW.finditer(page.read_text())]
BACKBONES = {
    "swin_tiny_patch4_window7_224": "Swin-T",
    "swin_large_patch4_window7_224": "Swin-L",
    "swin_large_patch4_window12_384": "Swin-L",
}


@pytest.mark.parametrize(("page", "row"), ROWS, ids=[f"{p.name}-{row['name']}" for p, row in ROWS])
def test_a_row_says_what_its_config_does(page, row):
    path = (page.parent / row["path"]).resolve()
    assert path.stem == row["name"]
    cfg = load(path)
    backbone = cfg.model.backbone
    name = BACKBONES[backbone.name] if "name" in backbone else f"R{backbone.depth}"
    assert row["backbone"] == name + (", DC5" if backbone.get("dilated") else "")
    assert int(row["queries"]) == cfg.model.num_queries
    assert int(row["epochs"]) == cfg.train.epochs
    docstring = " ".join(ast.get_docstring(ast.parse(path.read_text())).split())
    published = re.findall(r"(\d+\.\d) box AP", docstring)
    assert re.findall(r"\d+\.\d", row["published"]) == published


def test_every_config_has_its_row():
    """But for those of small models, which docs/configs.md names by their folder."""
    folders = {"demo", "bccd", "nuclei"}
    files = {path for path in (ROOT / "configs").rglob("*.py") if not folders & {*path.parts}}
    rows = [(DOCS / row["path"]).resolve() for page, row in ROWS if page.name == "configs.md"]
    assert sorted(rows) == sorted(files)
    assert 8 <= len(ROWS) - len(rows) <= 10


def test_one_version_everywhere():
    version = ms_detr.__version__
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == version
    assert citation["references"][0]["identifiers"][0]["value"] == "arXiv:2401.03989"
    changes = re.findall(r"^## \[(.+?)\](?: - (\S+))?$", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert changes[0] == ("Unreleased", "")
    assert changes[1] == (version, str(citation["date-released"]))


def test_the_workflow_runs_what_has_to_pass():
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    (job,) = workflow["jobs"].values()
    assert job["steps"][-1] == {"run": ".ci/run"}
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o100
