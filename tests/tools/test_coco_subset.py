"""`tools/coco_subset.py`: the first images of a COCO file, and the others."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).parents[2] / "tools" / "coco_subset.py"
IMAGES = [{"id": 10 + i, "file_name": f"cells/{i}.png", "width": 4, "height": 4} for i in range(9)]
OBJECTS = [{"id": i, "image_id": 10 + i % 6, "bbox": [0, 0, 2, 2]} for i in range(20)]


def divide(folder, *numbers):
    content = {"images": IMAGES, "annotations": OBJECTS, "categories": [{"id": 1, "name": "cell"}]}
    file = folder / "train.json"
    file.write_text(json.dumps(content))
    command = [sys.executable, str(TOOL), str(file), *map(str, numbers)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_every_image_is_in_one_of_two_files(tmp_path):
    assert divide(tmp_path, 4, 7).returncode == 0
    for number in (4, 7):
        parts = [
            json.loads((tmp_path / f"train_{name}.json").read_text())
            for name in (number, f"but_{number}")
        ]
        assert [len(part["images"]) for part in parts] == [number, 9 - number]
        assert sorted(x["id"] for part in parts for x in part["images"]) == [*range(10, 19)]
        assert sorted(x["id"] for part in parts for x in part["annotations"]) == [*range(20)]
        for part in parts:
            ids = {x["id"] for x in part["images"]}
            assert {x["image_id"] for x in part["annotations"]} <= ids
            assert part["categories"] == [{"id": 1, "name": "cell"}]


def test_the_order_is_that_of_the_names_digests(tmp_path):
    """Smaller subsets lie in larger ones; the digests are sha256sum's."""
    assert divide(tmp_path, 1, 2).returncode == 0
    first, two = (
        {x["file_name"] for x in json.loads((tmp_path / f"train_{n}.json").read_text())["images"]}
        for n in (1, 2)
    )
    assert first < two
    printed = {
        name: subprocess.run(
            ["sha256sum"], input=Path(name).name, capture_output=True, text=True, check=True
        ).stdout
        for name in (image["file_name"] for image in IMAGES)
    }
    assert first == {min(printed, key=printed.__getitem__)}


@pytest.mark.parametrize("number", [0, 10])
def test_more_images_than_there_are(tmp_path, number):
    result = divide(tmp_path, number)
    assert result.returncode == 2
    assert f"{number} images" in result.stderr and "Traceback" not in result.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["train.json"]
