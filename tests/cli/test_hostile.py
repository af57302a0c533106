"""Every verb that reads data, on wrong data: goes on or ends in a line; nothing is half written."""

import json
from pathlib import Path

import pytest
import torch
from detectron2.config import instantiate
from PIL import Image

from ms_detr.config import load
from tests.cli.in_one_process import last, statuses
from tests.data.check_support import FAULTS, Clean
from tests.data.formats.support import voc_object, write_image, write_xml
from tests.tiny_checkpoint import SMALL, write_tiny

FAULT = {fault.name: fault for fault in FAULTS}
PLANTED = {
    "text named .jpg": "text",
    "cut JPEG": "cut",
    "bomb": "huge",
    "NaN": "nan",
    "orphan": "orphan",
}
BOMB = """<!DOCTYPE a [<!ENTITY b "bbbbbbbbbb">""" + "".join(
    f'<!ENTITY {new} "{10 * f"&{old};"}">' for old, new in zip("bcdef", "cdefg", strict=True)
) + "]>"  # fmt: skip


def write_inputs(folder: Path) -> dict[str, Path]:
    """Datasets, each with something wrong, in COCO's form but for two."""
    roots = {}
    for name, fault in PLANTED.items():
        data = Clean(folder / name)
        FAULT[fault].plant(data)
        roots[name] = data.write()
    for name, content in (("a list", []), ("images that are a number", {"images": 3})):
        roots[name] = Clean(folder / name).write()
        (roots[name] / "annotations" / "train.json").write_text(json.dumps(content))
    roots["names"] = Clean(folder / "Zellen, größer als μm").write()
    one = Clean(folder / "one pixel")
    Image.new("RGB", (1, 1)).save(one.root / "train" / "one.png")
    one.add_image(file_name="one.png", width=1, height=1)
    roots["one pixel"] = one.write()
    roots["empty folder"] = folder / "empty folder"
    (roots["empty folder"] / "train").mkdir(parents=True)
    voc = roots["entities"] = folder / "entities"
    for number in range(4):
        write_image(voc / "train" / f"{number}.png", number)
        write_xml(voc / "train" / f"{number}.xml", voc_object("cat", (5, 5, 30, 30)))
    text = (voc / "train" / "3.xml").read_text().replace("cat", "&g;")
    (voc / "train" / "3.xml").write_text(BOMB + text)
    return roots


# Exit codes. Of predict and check-data 1 says that something was skipped, or found.
VERBS = ("predict", "check-data", "import", "train --data", "train", "evaluate", "compare",
         "visualize")  # fmt: skip
EXPECTED = {
    "text named .jpg": (1, 1, 0, 2, 2, 0, 0, 2),
    "cut JPEG": (1, 1, 0, 2, 2, 0, 0, 2),
    "bomb": (1, 1, 0, 2, 2, 0, 0, 2),
    "NaN": (0, 1, 0, 0, 0, 0, 0, 0),
    "orphan": (0, 1, 0, 0, 2, 2, 2, 2),
    "a list": (0, 1, 0, 0, 2, 2, 2, 2),
    "images that are a number": (0, 1, 0, 0, 2, 2, 2, 2),
    "names": (0, 0, 0, 0, 0, 0, 0, 0),
    "one pixel": (0, 0, 0, 0, 0, 0, 0, 0),
    "empty folder": (2, 2, 2, 2, 2, 2, 2, 2),
    "entities": (0, 1, 0, 0, 2, 2, 2, 2),
}
# Of the verbs: what they would write.
PLACES = {
    "predict": ("predict", "predict.json"),
    "check-data": ("page.html", "fixed"),
    "import": ("imported",),
    "train --data": ("own/run/model_final.pth",),
    "train": ("run/model_final.pth",),
    "evaluate": ("evaluated/evaluation.json",),
    "compare": ("compared/comparison.json",),
    "visualize": ("pictures/predictions.png",),
}


def commands(
    root: Path, out: Path, weights: str, two_classes: str, found: str
) -> dict[str, list[str]]:
    train = [
        f"dataloader.{loader}.dataset.{key}={json.dumps(str(value), ensure_ascii=False)}"
        for loader in ("train", "test")
        for key, value in (("images", root / "train"), ("name", f"{root.name}_{loader}"),
                           ("annotations", root / "annotations" / "train.json"))
    ]  # fmt: skip
    small = [*SMALL, "model.num_classes=2", "train.device=cpu", "dataloader.test.num_workers=0"]
    short = ["train.max_iter=1", "train.device=cpu", "train.report=false"]
    short += ["dataloader.train.num_workers=0", "dataloader.test.num_workers=0"]
    demo = "demo/ms_detr.py"
    return {
        "predict": ["predict", f"{root}/train", "--weights", weights, "--output", f"{out}/predict",
                    "--json", f"{out}/predict.json"],
        "check-data": ["check-data", str(root), "--report", f"{out}/page.html",
                       "--fix", f"{out}/fixed"],
        "import": ["import", "auto", str(root), f"{out}/imported"],
        "train --data": ["train", "--data", str(root), f"train.output_dir={out}/own/run", *short],
        "train": ["train", demo, *small, *train, f"train.output_dir={out}/run", *short],
        "evaluate": ["evaluate", demo, found, *small, *train, "--output", f"{out}/evaluated"],
        "compare": ["evaluate", demo, *small, *train, "--output", f"{out}/compared", "--draws", "3",
                    "--compare", found, found],
        "visualize": ["visualize", "predictions", "--config-file", demo, "--weights", two_classes,
                      "--output", f"{out}/pictures", *small, *train],
    }  # fmt: skip


@pytest.mark.slow
def test_every_verb_that_reads_data(tmp_path):
    weights = str(write_tiny(tmp_path / "model.pth"))
    two_classes = str(tmp_path / "two.pth")
    config = load("demo/ms_detr.py", [*SMALL, "model.num_classes=2"])
    model = {"model": instantiate(config.model).state_dict(), "classes": ["cat", "dog"]}
    torch.save(model, two_classes)
    roots = write_inputs(tmp_path / "data")
    words = {}
    for name, root in roots.items():
        found = tmp_path / f"{name}.json"
        found.write_text(
            '[{"image_id": 1, "category_id": 1, "bbox": [5, 5, 20, 15], "score": 0.5}]'
        )
        out = tmp_path / "out" / name
        out.mkdir(parents=True)
        for verb, command in commands(root, out, weights, two_classes, str(found)).items():
            words[f"{verb} on {name}"] = command
    results = statuses(words, tmp_path)
    found = {name: status for name, (status, _) in results.items()}
    assert found == {f"{verb} on {name}": status for name in roots
                     for verb, status in zip(VERBS, EXPECTED[name], strict=True)}  # fmt: skip
    for name, (status, said) in results.items():
        assert "Traceback" not in said, name
        assert status != 2 or last(said).startswith("error: "), (name, said)
    assert not [str(path) for path in tmp_path.rglob("*.partial*")]
    # What ended in an error has left no result.
    for name, (status, _) in results.items():
        verb, _, data = name.partition(" on ")
        for place in PLACES[verb] if status == 2 else ():
            assert not (tmp_path / "out" / data / place).exists(), name
