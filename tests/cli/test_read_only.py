"""What writes into a folder that is closed says so in a line, and leaves nothing."""

import json
import os
import re
import shutil
from pathlib import Path

import pytest
from PIL import Image

from ms_detr import cli
from tests.cli.in_one_process import last, statuses
from tests.own_data import forms
from tests.tiny_checkpoint import SMALL, write_tiny
from tests.tiny_demo import on_demo_data

# Root may write everywhere, unless it gives this away.
RIGHTS = "-dac_override,-dac_read_search"


def without_rights() -> list[str]:
    if os.geteuid() != 0:
        return []
    if shutil.which("setpriv") is None:
        pytest.skip("root may write everywhere, and setpriv isn't there")
    return ["setpriv", f"--bounding-set={RIGHTS}", f"--inh-caps={RIGHTS}"]


@pytest.mark.slow
def test_every_verb_that_writes(demo_dataset, tmp_path):
    weights = str(write_tiny(tmp_path / "model.pth"))
    other = str(write_tiny(tmp_path / "other.pth", resized=True))
    Image.new("RGB", (96, 64), (90, 120, 30)).save(tmp_path / "image.png")
    forms.voc(tmp_path / "voc")
    found = tmp_path / "found.json"
    objects = json.loads((demo_dataset / "annotations/val.json").read_text())["annotations"]
    keys = ("image_id", "category_id", "bbox")
    found.write_text(json.dumps([{k: x[k] for k in keys} | {"score": 0.5} for x in objects]))
    finished = tmp_path / "finished"
    config = ["demo/ms_detr.py", *SMALL, *on_demo_data(demo_dataset, "finished")]
    words = ["train.max_iter=1", "train.device=cpu", "train.report=false"]
    assert cli.main(["train", *config, *words, f"train.output_dir={finished}"]) == 0
    closed = tmp_path / "closed"
    closed.mkdir()
    data = [*SMALL, *on_demo_data(demo_dataset, "read_only"), "train.device=cpu"]
    demo = ["demo/ms_detr.py", *data]
    view = ["--config-file", "demo/ms_detr.py", "--weights", weights]
    out = str(closed / "out")
    commands = {
        "predict": ["predict", "image.png", "--weights", weights, "--output", out],
        "predict --json": ["predict", "image.png", "--weights", weights, "--json", f"{out}.json",
                           "--output", str(tmp_path / "drawn")],
        "predict --csv": ["predict", "image.png", "--weights", weights, "--csv", f"{out}.csv",
                          "--output", str(tmp_path / "drawn")],
        "check-data --report": ["check-data", "voc", "--report", f"{out}.html"],
        "check-data --fix": ["check-data", "voc", "--fix", out],
        "import": ["import", "voc", "voc", out],
        "evaluate": ["evaluate", demo[0], str(found), *data, "--output", out],
        "evaluate --json": ["evaluate", demo[0], str(found), *data, "--json", f"{out}.json"],
        "evaluate --compare": ["evaluate", demo[0], *data, "--compare", str(found), str(found),
                               "--output", out],
        "evaluate --compare --json": ["evaluate", demo[0], *data, "--compare", str(found),
                                      str(found), "--output", str(tmp_path / "compared"),
                                      "--json", f"{out}.json"],
        "evaluate WEIGHTS": ["evaluate", demo[0], weights, *data, f"train.output_dir={out}"],
        "export": ["export", "--weights", weights, "--output", f"{out}.onnx"],
        "convert": ["convert", weights, f"{out}.safetensors"],
        "average": ["average", f"{out}.pth", weights, other],
        "train": ["train", *demo, f"train.output_dir={out}"],
        "train --data": ["train", "--data", "voc", f"train.output_dir={out}", "train.device=cpu"],
        "train --converted": ["train", f"train.output_dir={tmp_path}/run", "train.device=cpu",
                              "--data", "voc", "--converted", out],
        "compare": ["compare", "--output", out, "--run", "a", *demo],
        "sweep": ["sweep", "--output", out, *demo, "optimizer.lr=1e-4,1e-3"],
        "demo": ["demo", "--data-only"],
        "report": ["report", str(finished), "--output", f"{out}.html"],
        **{f"visualize {name}": ["visualize", name, *view, "--output", out, *data]
           for name in ("predictions", "assignments", "sampling")},
        "analyze": ["analyze", "discriminability", "--run", "a", "demo/ms_detr.py", *data,
                    f"train.init_checkpoint={weights}", "--output", out],
    }  # fmt: skip
    closed.chmod(0o500)
    results = statuses(commands, tmp_path, without_rights(), DETECTRON2_DATASETS=out)
    wrong = {
        name: (status, said)
        for name, (status, said) in results.items()
        if status != 2 or not re.match("error: .*(denied|can't be written)", last(said))
    }
    assert results.keys() == commands.keys() and not wrong, json.dumps(wrong, indent=1)
    tried = {words[0] for words in commands.values()}
    assert cli.verbs().keys() - tried == {"benchmark", "doctor", "replay"}  # which write nothing
    assert os.listdir(closed) == []
    assert not [str(path) for path in Path(tmp_path).rglob("*.partial*")]
