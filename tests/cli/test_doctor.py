"""The doctor on this machine, and on machines where something is broken."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import detectron2_setup
import pytest

from ms_detr import cli
from ms_detr.cli import doctor
from ms_detr.ops import OperatorStatus
from tests.conftest import ROOT, site_packages


def findings(python: str) -> tuple[dict[str, dict], int]:
    """Run `ms-detr doctor --json` in an environment; PYTHONPATH holds the checkout."""
    result = subprocess.run(
        [python, "-m", "ms_detr", "doctor", "--json"],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(python).parent,
        env={"PYTHONPATH": str(ROOT)},
    )
    assert "Traceback" not in result.stderr
    return {finding["name"]: finding for finding in json.loads(result.stdout)}, result.returncode


def test_this_machine_is_sound(capsys):
    assert cli.main(["doctor"]) == 0
    output = capsys.readouterr().out
    assert "Nothing is broken." in output
    for name in ("python", "torch", "torchvision", "detectron2", "operator", "COCO 2017"):
        assert f" {name} " in output


def test_nothing_installed_at_all(new_environment):
    found, status = findings(str(new_environment()))
    assert status == 1
    assert found["python"]["status"] == "ok"
    assert found["torch"]["status"] == "broken"
    assert found["torch"]["remedy"] == 'python -m pip install "torch>=2.6" torchvision'
    assert found["pillow"]["remedy"] == "python -m pip install pillow"
    assert found["detectron2"]["status"] == "broken"
    assert found["detectron2"]["remedy"] == "python tools/detectron2_setup.py install"
    assert found["operator"]["status"] == "broken"
    assert found["COCO 2017"]["status"] == "note"


@pytest.fixture(scope="module")
def extras(tmp_path_factory) -> tuple[Path, dict[str, list[str]]]:
    """The metadata that an installation has, and the extras' packages as setup.py names them."""
    folder = tmp_path_factory.mktemp("metadata")
    command = [sys.executable, "setup.py", "--quiet", "egg_info", "--egg-base", str(folder)]
    subprocess.run(command, capture_output=True, check=True, cwd=ROOT)
    (value,) = [
        keyword.value
        for node in ast.walk(ast.parse((ROOT / "setup.py").read_text()))
        if isinstance(node, ast.Call)
        for keyword in node.keywords
        if keyword.arg == "extras_require"
    ]
    return folder, ast.literal_eval(value)


def test_the_doctor_knows_all_extras(extras, new_environment):
    """From the metadata, whatever setup.py names."""
    folder, listed = extras
    assert {"vis", "export", "log", "timm", "safetensors", "video"} <= set(listed)
    hidden = ("timm", "tensorboard", "wandb", "mlflow")
    python = new_environment(packages=True, without=hidden)
    (site_packages(python) / "metadata.pth").write_text(f"{folder}\n")
    found, _ = findings(str(python))
    by_package: dict[str, set[str]] = {}
    for extra, requirements in listed.items():
        for requirement in requirements:
            by_package.setdefault(re.split("[<>=]", requirement)[0], set()).add(extra)
    assert by_package.keys() <= found.keys()
    for name in ("timm", "tensorboard", "wandb", "mlflow-skinny"):
        assert found[name]["status"] == "note"
        assert found[name]["remedy"] == f"python -m pip install {name}"
        said = re.search(r"\(extra (.*)\)$", found[name]["value"])[1]
        assert set(said.split(", ")) == by_package[name]
    assert found["supervision"]["status"] == "ok"
    assert "extras" not in found


def test_extras_of_a_checkout_that_is_not_installed(new_environment):
    found, _ = findings(str(new_environment(packages=True)))
    assert found["extras"]["status"] == "note"
    assert found["extras"]["remedy"] == "python -m pip install --no-build-isolation -e ."
    assert "timm" not in found


def test_only_detectron2_missing(new_environment):
    found, status = findings(str(new_environment(packages=True)))
    assert status == 1
    assert [name for name, each in found.items() if each["status"] == "broken"] == ["detectron2"]


@pytest.mark.parametrize(
    ("data", "complaint", "remedy"),
    [
        ("import cv2_missing", "`import detectron2.data` failed", "python -m pip install cv2_mis"),
        ("raise AttributeError('np.int')", "AttributeError: np.int", "take {} off PYTHONPATH"),
    ],
)
def test_unusable_detectron2_is_named(tmp_path, data, complaint, remedy):
    for name, code in {"__init__": "", "engine": "", "data": data}.items():
        (tmp_path / "detectron2").mkdir(exist_ok=True)
        (tmp_path / "detectron2" / f"{name}.py").write_text(code)
    code = "from ms_detr.cli.doctor import *; print(json.dumps(asdict(check_detectron2())))"
    result = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": f"{tmp_path}:{ROOT}"},
    )
    found = json.loads(result.stdout)
    assert found["status"] == "broken"
    assert complaint in found["value"]
    assert "from no installed distribution" in found["value"]
    assert found["remedy"].startswith(remedy.format(tmp_path))


def test_owner_is_the_distribution_that_put_it_there():
    import pytest as package

    assert doctor.find_owner(Path(package.__file__).parent) == f"pytest {package.__version__}"
    assert doctor.find_owner(Path("/elsewhere/pytest")) == ""


def test_old_torch_is_broken(monkeypatch):
    monkeypatch.setattr("torch.__version__", "2.5.1+cpu")
    assert doctor.check_torch().status == "broken"
    monkeypatch.setattr("torch.__version__", "2.10.0a0+git123")
    assert doctor.check_torch().status == "ok"


@pytest.mark.parametrize("gpu", [False, True])
def test_cuda_kernels_that_the_setup_left_out(monkeypatch, gpu):
    """Without a GPU nothing is amiss, and the reason holds the command."""
    status = OperatorStatus(("cpu",), {"cuda": "left out; FORCE_CUDA=1 pip ..."}, "avx2", "pip ...")
    monkeypatch.setattr("ms_detr.ops.status", lambda: status)
    monkeypatch.setattr("torch.cuda.is_available", lambda: gpu)
    found = doctor.check_operator()
    assert found.value == "compiled for the CPU (avx2); cuda: left out; FORCE_CUDA=1 pip ..."
    assert (found.status, found.remedy) == (("note", "pip ...") if gpu else ("ok", ""))


def test_check_that_fails_is_a_finding_and_not_a_crash(monkeypatch):
    def fail():
        raise RuntimeError("unforeseen")

    monkeypatch.setattr(doctor, "check_coco", fail)
    assert doctor.examine()[-1] == doctor.Finding("COCO 2017", "RuntimeError: unforeseen", "broken")


def test_coco_names_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    monkeypatch.setattr(
        doctor, "COCO_2017", {name: min(n, 2) for name, n in doctor.COCO_2017.items()}
    )
    for folder in ("annotations", "train2017", "val2017"):
        (tmp_path / "coco" / folder).mkdir(parents=True)
    for name in ("instances_train2017.json", "instances_val2017.json"):
        (tmp_path / "coco" / "annotations" / name).touch()
    for name in ("train2017/1.jpg", "train2017/2.jpg", "val2017/1.jpg"):
        (tmp_path / "coco" / name).touch()
    finding = doctor.check_coco()
    assert finding.status == "note"
    assert finding.value == (
        f"missing in {tmp_path} (DETECTRON2_DATASETS): coco/val2017 (holds 1 of 2 images)"
    )
    (tmp_path / "coco/val2017/2.jpg").touch()
    assert doctor.check_coco() == doctor.Finding(
        "COCO 2017", f"complete in {tmp_path} (DETECTRON2_DATASETS)"
    )


def test_needs_are_those_of_the_setup_tool():
    assert doctor.DETECTRON2_IMPORTS == detectron2_setup.IMPORTS
