"""What the tests start imports this checkout and these tests, beside any other source tree."""

import multiprocessing
import os
import subprocess
import sys

import tests
from tests.conftest import ROOT

CODE = "import ms_detr, tests; print(ms_detr.__file__, tests.__file__)"


def put_origin(results: multiprocessing.Queue) -> None:
    """Where a process that imported this module by its name found the package of it."""
    results.put(sys.modules["tests"].__file__)


def test_they_import_these_tests(tmp_path):
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    process = context.Process(target=put_origin, args=(results,))
    process.start()
    process.join(timeout=100)
    assert process.exitcode == 0
    assert results.get(timeout=10) == tests.__file__ == str(ROOT / "tests" / "__init__.py")
    command = [sys.executable, "-c", CODE]
    found = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert found.stdout.split() == [str(ROOT / "ms_detr" / "__init__.py"), tests.__file__]


def test_whatever_pythonpath_holds(tmp_path):
    """As `make test DETECTRON2_SRC=...` does with a tree that has a package `tests`."""
    for name in ("tests", "ms_detr"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise ImportError('of another tree')\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__]
    result = subprocess.run(
        [*command, "-k", test_they_import_these_tests.__name__],
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout[-3000:]
    assert "1 passed" in result.stdout
