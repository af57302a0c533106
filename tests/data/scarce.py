"""Loaders where files, then shared memory, run out; a process of its own, in its own mounts."""

import json
import resource
import subprocess
import sys
from itertools import islice

import torch

from ms_detr.data import build_test_loader, build_train_loader

RECORDS = [{"number": number, "annotations": [{}]} for number in range(8)]


def make(record: dict) -> dict:
    """Ten tensors, 1.5 MB in all."""
    parts = {str(i): torch.full((150_000,), record["number"] + i).byte() for i in range(10)}
    return {"number": record["number"], **parts}


def summary(loader, batches: int) -> list:
    return [
        [x["number"], sum(int(x[str(i)].sum()) for i in range(10)), x["9"].numel()]
        for batch in islice(loader, batches)
        for x in batch
    ]


def load(workers: int) -> list:
    """What both loaders give, a training's for two epochs."""
    train = build_train_loader(RECORDS, make, 4, num_workers=workers, seed=3)
    return [summary(train, 4), summary(build_test_loader(RECORDS, make, 4, workers), 2)]


def mount_shared_memory() -> None:
    """Have one megabyte, all free: processes that end may still hold some of the one before."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", "/dev/shm"], check=True)


def main() -> None:
    found = {"expected": load(0)}
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, limits[1]))
    found["few files"] = load(2)
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    if "mount" in sys.argv:
        mount_shared_memory()
        found["little memory"] = load(2)
        mount_shared_memory()
        with open("/dev/shm/full", "wb") as file:
            file.write(bytes(2**20 - 4096 * 2))
        try:
            found["no memory"] = load(2)
        except OSError as error:
            found["no memory"] = str(error)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
