"""Write the first N images of a COCO file, and the others, as files of their own.

    python tools/coco_subset.py datasets/bccd/annotations/train.json 25 50 100 155

writes ``train_25.json`` and ``train_but_25.json`` beside the file, and so on. The order is that of
the SHA-256 of the image's name: each subset holds the smaller ones, on every machine the same.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path
from typing import Any


def divide(content: dict[str, Any], number: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """The content of a COCO file as two: so many images, and all others."""
    images = sorted(content["images"], key=lambda image: _digest(image["file_name"]))
    chosen = {image["id"] for image in images[:number]}

    def part(inside: bool) -> dict[str, Any]:
        kept = {
            "images": [x for x in content["images"] if (x["id"] in chosen) == inside],
            "annotations": [
                x for x in content["annotations"] if (x["image_id"] in chosen) == inside
            ],
        }
        return {**content, **kept}

    return part(True), part(False)


def _digest(name: str) -> str:
    return hashlib.sha256(Path(name).name.encode()).hexdigest()


def main() -> None:
    """Write the files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("numbers", type=int, nargs="+", metavar="N")
    args = parser.parse_args()
    content = json.loads(args.file.read_text())
    if wrong := [n for n in args.numbers if not 0 < n <= len(content["images"])]:
        parser.error(f"{wrong[0]} images of {len(content['images'])} that {args.file} has")
    for number in args.numbers:
        for name, part in zip((f"{number}", f"but_{number}"), divide(content, number), strict=True):
            place = args.file.with_name(f"{args.file.stem}_{name}.json")
            place.write_text(json.dumps(part))
            print(f"{place}: {len(part['images'])} images, {len(part['annotations'])} objects")


if __name__ == "__main__":
    main()
