"""The life of an installation, with a small wheel in place of the real one: no network."""

import hashlib
import os
import py_compile
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

import detectron2_build
import detectron2_setup
import pytest
from detectron2_build import INFO, MARKER, SetupError, file_digest

from tests.conftest import site_packages

EDITS = ((r"\bnp\.int\b", "int", {"data/__init__.py": 1}),)
WHEEL = {
    "detectron2/__init__.py": "__version__ = '0.4'\r\n",
    "detectron2/_C.cp37-win_amd64.pyd": "MZ",
    "detectron2/engine/__init__.py": "",
    "detectron2/data/__init__.py": "def kind(np=None):\r\n    return np.int\r\n",
    "detectron2/evaluation/__init__.py": "",
    "detectron2/config/__init__.py": "class LazyConfig: pass\r\n",
    "detectron2/projects/__init__.py": "",
    "detectron2/projects/point_rend/__init__.py": "",
    "detectron2/model_zoo/a.yaml": "a: 1\r\n",
    "geoai_detectron2-0.4.dist-info/LICENSE": "Apache\r\n",
    "geoai_detectron2-0.4.dist-info/METADATA": "Requires-Dist: black (==21.4b2)\r\n",
    "geoai_detectron2-0.4.dist-info/RECORD": "",
}


@dataclass
class Case:
    """An empty environment and a wheel that the tool takes for the real build."""

    python: str
    site: Path
    wheel: Path

    def install(self) -> str:
        return detectron2_setup.install(self.site, self.wheel, self.python)

    def files(self) -> dict[str, bytes]:
        return snapshot(self.site)


def snapshot(folder: Path) -> dict[str, bytes]:
    """Every file and empty folder below a folder."""
    paths = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*")}
    return {name: b"" if path.is_dir() else path.read_bytes() for name, path in paths.items()}


def write_wheel(path: Path, files: dict[str, str]) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)


def write_package(site: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        if name.endswith(".py"):
            (site / name).parent.mkdir(parents=True, exist_ok=True)
            (site / name).write_text(text)


@pytest.fixture
def case(new_environment, tmp_path, monkeypatch) -> Case:
    wheel = tmp_path / "build.whl"
    write_wheel(wheel, WHEEL)
    monkeypatch.setattr(detectron2_build, "EDITS", EDITS)
    monkeypatch.setattr(detectron2_build, "BUILD_SHA256", sha256(wheel))
    python = new_environment()
    return Case(str(python), site_packages(python), wheel)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def assert_whole(case: Case) -> None:
    """Usable, complete, nothing left over, and RECORD lists exactly the files that are there."""
    assert detectron2_setup.probe(case.python) == (
        str(case.site / "detectron2" / "__init__.py"),
        None,
    )
    lines = detectron2_setup.read_record(case.site / INFO)
    record = dict(lines)
    assert len(record) == len(lines)
    folders = [case.site / "detectron2", case.site / INFO]
    there = {
        path.relative_to(case.site).as_posix()
        for folder in folders
        for path in folder.rglob("*")
        if path.is_file() and path.parent.name != "__pycache__"
    }
    assert set(record) == there
    assert record.pop(f"{INFO}/RECORD") == ""
    assert all(file_digest(case.site / name) == digest for name, digest in record.items())
    assert sorted(path.name for path in case.site.glob("*detectron2*")) == ["detectron2", INFO]


def test_install_adapts_the_build(case):
    assert "Installed Detectron2 0.4+msdetr" in case.install()
    assert_whole(case)
    package = case.site / "detectron2"
    assert (package / "data/__init__.py").read_bytes() == b"def kind(np=None):\n    return int\n"
    assert (package / "model_zoo/a.yaml").read_bytes() == b"a: 1\n"
    assert (case.site / INFO / "LICENSE").read_bytes() == b"Apache\n"
    assert not list(package.glob("*.pyd"))
    assert (package / "_C.py").read_text() == detectron2_build.EXTENSION.read_text()
    assert "6700d784" in (package / MARKER).read_text()
    assert "black" not in (case.site / INFO / "METADATA").read_text()


def test_second_install_changes_nothing(case):
    case.install()
    before = case.files()
    case.wheel.unlink()
    assert "Nothing to do" in case.install()
    assert case.files() == before


def test_usable_one_of_somebody_else_is_used_as_it_is(case):
    write_package(case.site, WHEEL)
    before = case.files()
    case.wheel.unlink()
    assert f"{case.site / 'detectron2'} is usable. Nothing to do." in case.install()
    assert case.files() | before == case.files()
    assert "Nothing in" in detectron2_setup.uninstall(case.site)
    assert (case.site / "detectron2/data/__init__.py").exists()


@pytest.mark.parametrize(
    ("module", "code", "complaint"),
    [
        ("engine", "import caffe2", "`import detectron2.engine` failed: ModuleNotFoundError: "),
        ("data", "raise AttributeError('np.int')", "`import detectron2.data` failed: Attribute"),
        ("config", "", "`from detectron2.config import LazyConfig` failed: ImportError"),
        ("evaluation", "import os; os._exit(7)", "the imports ended Python with status 7"),
    ],
)
def test_unusable_one_of_somebody_else_is_named_and_left_alone(case, module, code, complaint):
    write_package(case.site, WHEEL | {f"detectron2/{module}/__init__.py": code})
    before = case.files()
    with pytest.raises(SetupError) as caught:
        case.install()
    assert complaint in str(caught.value)
    assert "left as it is" in str(caught.value)
    after = case.files()
    assert {name: after[name] for name in before} == before
    assert all("__pycache__" in name for name in set(after) - set(before))


def test_file_with_another_hash_is_refused(case):
    before = case.files()
    with case.wheel.open("ab") as file:
        file.write(b"x")
    with pytest.raises(SetupError, match=r"refused: its sha256 is [0-9a-f]{64}, expected"):
        case.install()
    assert case.files() == before


@pytest.mark.parametrize(
    "changes",
    [
        {"detectron2/data/__init__.py": "nothing to edit"},
        {"detectron2/data/__init__.py": "np.int, np.int"},
        {"detectron2/engine/__init__.py": "np.int"},
    ],
    ids=["too few", "too many", "in another file"],
)
def test_surprising_build_is_an_error(case, changes, monkeypatch):
    write_wheel(case.wheel, WHEEL | changes)
    monkeypatch.setattr(detectron2_build, "BUILD_SHA256", sha256(case.wheel))
    before = case.files()
    with pytest.raises(SetupError, match=r"expected \{'data/__init__.py': 1\}"):
        case.install()
    assert case.files() == before


@pytest.mark.parametrize(
    "name",
    [
        "../evil.py",
        "/evil.py",
        "detectron2/../../evil.py",
        "detectron2\\..\\evil.py",
        "C:evil.py",
        "other/evil.py",
    ],
)
def test_paths_that_leave_the_package_are_refused(case, name, monkeypatch, tmp_path):
    write_wheel(case.wheel, WHEEL | {name: "evil"})
    monkeypatch.setattr(detectron2_build, "BUILD_SHA256", sha256(case.wheel))
    before = case.files()
    with pytest.raises(SetupError, match="refused: it holds the un"):
        case.install()
    assert case.files() == before
    assert not list(tmp_path.rglob("*evil*"))


KILLED = """
import os, sys
sys.path.insert(0, {tools!r})
from pathlib import Path
import detectron2_build, detectron2_setup
detectron2_build.EDITS = {edits!r}
detectron2_build.BUILD_SHA256 = {sha256!r}
module, name, calls = {where!r}
original = getattr(sys.modules[module], name)
def killed(*args, **kwargs):
    global calls
    if not calls:
        os._exit(9)  # like a kill: no clean-up runs
    calls -= 1
    return original(*args, **kwargs)
setattr(sys.modules[module], name, killed)
detectron2_setup.install(Path({site!r}), Path({wheel!r}), {python!r})
"""


@pytest.mark.parametrize(
    "where",
    [
        ("detectron2_build", "apply_edits", 0),
        ("detectron2_build", "write_metadata", 0),
        ("os", "rename", 0),
        ("os", "rename", 1),
        ("shutil", "rmtree", 1),
        ("detectron2_setup", "require_usable", 0),
    ],
    ids=lambda where: f"{where[1]} {where[2]}",
)
def test_killed_install_can_be_run_again(case, where):
    code = KILLED.format(
        tools=str(Path(detectron2_setup.__file__).parent),
        edits=EDITS,
        sha256=detectron2_build.BUILD_SHA256,
        where=where,
        site=str(case.site),
        wheel=str(case.wheel),
        python=case.python,
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 9
    assert any(name.startswith((".detectron2", "detectron2")) for name in case.files())
    case.install()
    assert_whole(case)


def test_download_that_fails_leaves_the_installed_one(case):
    case.install()
    (case.site / "detectron2/data/__init__.py").write_text("damaged = True")
    before = case.files()
    case.wheel.unlink()
    with pytest.raises(SetupError, match="is not a file"):
        case.install()
    assert case.files() == before


def test_damaged_or_older_installation_is_replaced(case):
    case.install()
    (case.site / "detectron2/data/__init__.py").write_text("damaged = True")
    assert "Installed" in case.install()
    assert_whole(case)

    old = case.site / INFO.replace("+msdetr.", "+msdetr.0.")
    (case.site / INFO).rename(old)
    (old / "RECORD").write_text((old / "RECORD").read_text().replace(INFO, old.name))
    (case.site / "detectron2/data/__init__.py").unlink()
    assert "Installed" in case.install()
    assert_whole(case)


def test_uninstall_removes_exactly_what_was_installed(case):
    neighbour = {"neighbour/__init__.py": "", "detectron2_extra/__init__.py": ""}
    write_package(case.site, neighbour)
    before = case.files()
    case.install()
    py_compile.compile(str(case.site / "detectron2/data/__init__.py"))
    detectron2_setup.uninstall(case.site)
    assert case.files() == before


def test_files_of_others_survive_and_are_not_installed_over(case):
    case.install()
    (case.site / "detectron2/data/mine.py").write_text("mine = True")
    detectron2_setup.uninstall(case.site)
    left = [name for name in case.files() if name.startswith("detectron2")]
    assert sorted(left) == ["detectron2", "detectron2/data", "detectron2/data/mine.py"]
    with pytest.raises(SetupError, match="not usable"):
        case.install()
    assert (case.site / "detectron2/data/mine.py").read_text() == "mine = True"


def test_repair_does_not_install_over_files_of_others(case):
    case.install()
    (case.site / "detectron2/data/mine.py").write_text("mine = True")
    (case.site / "detectron2/data/__init__.py").write_text("damaged = True")
    with pytest.raises(SetupError, match="holds files that this tool didn't write"):
        case.install()
    assert (case.site / "detectron2/data/mine.py").read_text() == "mine = True"


@pytest.mark.parametrize("removed", [0, 3, 8, 11, 14])
def test_interrupted_uninstall_can_be_run_again(case, removed, monkeypatch):
    before = case.files()
    case.install()
    unlink = os.unlink
    calls = iter(range(removed))

    def interrupted(*args, **kwargs):
        if next(calls, None) is None:
            raise KeyboardInterrupt
        unlink(*args, **kwargs)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "unlink", interrupted)
        detectron2_setup.uninstall(case.site)
    detectron2_setup.uninstall(case.site)
    assert case.files() == before


def test_uninstall_never_leaves_site_packages(case, tmp_path):
    case.install()
    (tmp_path / "precious.txt").write_text("precious")
    up = os.path.relpath(tmp_path / "precious.txt", case.site)
    with (case.site / INFO / "RECORD").open("a") as file:
        file.write(f"{up},,\n")
    with pytest.raises(SetupError, match="outside"):
        detectron2_setup.uninstall(case.site)
    assert (tmp_path / "precious.txt").read_text() == "precious"


def test_command_line_without_detectron2(new_environment):
    command = [str(new_environment()), detectron2_setup.__file__]
    result = subprocess.run([*command, "check"], capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert "No Detectron2 was found. Run `python tools/detectron2_setup.py install`" in (
        result.stderr
    )
    result = subprocess.run([*command, "uninstall"], capture_output=True, text=True, check=False)
    assert result.returncode == 0
    assert "Nothing in" in result.stdout
