"""The demo's data of the tests, as overrides of a demo config."""

from pathlib import Path


def on_demo_data(folder: Path, name: str) -> list[str]:
    """Overrides that let a config read the data in a folder, as NAME_train and NAME_val."""
    return [
        f"dataloader.{loader}.dataset.{key}={value}"
        for loader, split in (("train", "train"), ("test", "val"))
        for key, value in (
            ("images", folder / split),
            ("annotations", folder / f"annotations/{split}.json"),
            ("name", f"{name}_{split}"),
        )
    ]
