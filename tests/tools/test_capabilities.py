import json
import subprocess
import sys

import capabilities
import pytest

from tests.conftest import ROOT

TEST = """
import json
import torch
from ms_detr.ops import status

def test_this():
    capability = torch.backends.cpu.get_cpu_capability().lower()
    with open({path!r}, "a") as file:
        file.write(json.dumps([capability, status().instruction_set]) + "\\n")
    assert capability != "default"
"""


@pytest.fixture
def unlimited(monkeypatch):
    """As where nobody holds this run to a set."""
    for name in {name for settings in capabilities.SETTINGS.values() for name in settings}:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.slow
def test_every_set_of_this_cpu_is_tested_though_one_fails(tmp_path, unlimited):
    seen = tmp_path / "seen"
    (tmp_path / "test_set.py").write_text(TEST.format(path=str(seen)))
    command = [sys.executable, ROOT / "tools" / "capabilities.py", "-q", "-p", "no:cacheprovider"]
    result = subprocess.run(
        [*command, tmp_path / "test_set.py"], cwd=ROOT, capture_output=True, text=True
    )
    assert result.returncode == 1
    found = [json.loads(line) for line in seen.read_text().splitlines()]
    names = [name for name, _ in found]
    assert names == list(capabilities.SETTINGS)[: len(found)]
    kernels = [capabilities.SETTINGS[name]["MS_DETR_CPU"] for name in names]
    for number, (_, ours) in enumerate(found):  # a compiler may have made fewer
        assert ours in ("", *kernels[: number + 1])
    last = result.stdout.splitlines()[-1]
    assert last.startswith("== default: failed with status 1 in ")
    assert last.count(" passed in ") == len(found) - 1


@pytest.mark.parametrize(
    ("best", "expected"),
    [
        ("DEFAULT", ["default"]),
        ("AVX2", ["default", "avx2"]),
        ("AVX512", ["default", "avx2", "avx512"]),
        ("SVE256", ["default"]),
    ],
)
def test_what_a_cpu_offers(monkeypatch, best, expected):
    monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda: best)
    assert capabilities.offered() == expected
