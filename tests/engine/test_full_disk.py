"""A disk that is full, or gone, in the middle of what writes: said in a line, and nothing lost."""

import errno
import json
import os
import resource
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from detectron2.utils.events import EventStorage
from torch import nn

from ms_detr.data import generate_demo
from ms_detr.engine import Checkpointer, EvaluationHook, read_checkpoint
from ms_detr.engine.archive import write_checkpoint
from ms_detr.errors import SystemLimitError, short_message
from ms_detr.evaluation.results import UnwrittenError, write_results
from ms_detr.files import explained, write_text
from ms_detr.visualization.comparison import draw_comparison
from tests.engine.standin import CONFIG, overrides
from tests.engine.test_run import curve

NO_SPACE = os.strerror(errno.ENOSPC)
MOUNT = "mount -t tmpfs -o size={size} none '{folder}'"


def on_a_small_disk(folder, size, command, **options):
    """Run a shell command with ``folder`` on a disk of its own, which is gone afterwards."""
    folder.mkdir(exist_ok=True)
    script = f"{MOUNT.format(size=size, folder=folder)} && {{ {command}; }}"
    call = ["unshare", "--mount", "sh", "-c", script]
    return subprocess.run(call, capture_output=True, text=True, timeout=300, **options)


@pytest.fixture(scope="module")
def disks(tmp_path_factory):
    """Skip where no disk can be mounted."""
    if shutil.which("unshare") is None:
        pytest.skip("there is no unshare, to mount a small disk with")
    tried = on_a_small_disk(tmp_path_factory.mktemp("disk"), "64k", "true", check=False)
    if tried.returncode:
        pytest.skip(f"a small disk can't be mounted: {tried.stderr.strip()}")


@pytest.fixture
def run(disks, root, data, tmp_path):
    """Train on a small disk, then list what is there; events are Python by the step's number."""

    def call(size, *opts, events="", flags="", status=0, after="ls"):
        out = tmp_path / "out"
        opts = overrides(data, out, "train.checkpoints_to_keep=100", *opts)
        words = " ".join(f"'{word}'" for word in opts)
        script = tmp_path / "run.py"
        script.write_text(SCRIPT.format(out=out, events=events))
        command = f"{sys.executable} {script} {flags} --config-file {CONFIG} {words}"
        command = f"{command}; status=$?; cd '{out}'; {after}; exit $status"
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        process = on_a_small_disk(out, size, command, cwd=root, env=environment, check=False)
        assert process.returncode == status, process.stderr + process.stdout
        assert "Traceback" not in process.stdout + process.stderr
        return process

    return call


SCRIPT = """
import os, runpy, shutil, subprocess
from tests.engine.standin import at_steps

OUT = "{out}"

def sh(command):
    command = command.replace("OUT", OUT)
    return lambda: subprocess.run(command, shell=True, stderr=subprocess.DEVNULL)

if __name__ == "__main__":
    at_steps({{{events}}})
    runpy.run_path("train_net.py", run_name="__main__")
"""
FILL = "sh('dd if=/dev/zero of=OUT/fill bs=1k')"
FREE = "sh('rm OUT/fill')"


def errors(process):
    return [line for line in process.stdout.splitlines() if " ERROR (" in line]


def ending(process):
    """The one line with which the command ends."""
    (line,) = [line for line in process.stderr.splitlines() if line.startswith("error: ")]
    return line


def test_without_room_for_checkpoints_training_goes_on_until_the_last(run, train, tmp_path):
    """They take 40 kB each, and the first one finds room. Resumed with room, it ends as ever."""
    average = "+train.ema={decay: 0.75}"
    process = run("88k", average, "train.eval_epochs=0", status=2, after="ls; cp -r . ../kept")
    first, second = (tmp_path / "out" / f"model_000000{k}.pth" for k in (2, 5))
    (said,) = [line for line in errors(process) if str(second) in line]
    for part in (NO_SPACE, "MB are needed", "MB are free", f"the last checkpoint is {first};"):
        assert part in said
    assert "training goes on, and saves after iteration 9 again" in said
    assert f"model_final.pth: {NO_SPACE}: about" in ending(process)
    assert f"the last checkpoint is {first}: go on with --resume" in ending(process)
    assert "iter 8/9" in process.stdout
    assert "model_0000002.pth" in process.stdout.splitlines()
    assert not {"model_0000005.pth", "model_final.pth"} & {*process.stdout.splitlines()}
    assert ".partial" not in process.stdout.replace("loading", "")
    train("kept", average, "train.eval_epochs=0", "--resume")
    train("whole", average, "train.eval_epochs=0")
    whole, kept = (read_checkpoint(tmp_path / x / "model_final.pth") for x in ("whole", "kept"))
    for part in ("model", "ema"):
        assert all(torch.equal(whole[part][n], kept[part][n]) for n in whole[part])
    assert curve(tmp_path / "kept") == curve(tmp_path / "whole")


@pytest.mark.slow
def test_all_processes_end_where_the_main_one_cannot_write(run):
    process = run("72k", "model.dropout=0", flags="--num-gpus=2", status=2)
    assert f"model_final.pth: {NO_SPACE}" in ending(process)


def test_a_disk_that_was_full_for_a_while(run, train, tmp_path):
    """Two checkpoints and some lines are lost, the training isn't."""
    copy = "cp model_final.pth metrics.json .."
    process = run("400k", events=f"2: {FILL}, 7: {FREE}", after=copy)
    said = errors(process)
    for name in ("model_0000002.pth", "model_0000005.pth", "TensorboardXWriter can't write"):
        assert sum(name in line for line in said) == 1, (name, said)
    assert len(said) <= 6  # metrics.json may have a page left, and the best weights
    assert process.stderr.count("log.txt can't be written") <= 1
    for line in (tmp_path / "metrics.json").read_text().splitlines():
        json.loads(line)
    train("whole")
    whole, other = (
        read_checkpoint(tmp_path / x) for x in ("whole/model_final.pth", "model_final.pth")
    )
    assert all(torch.equal(whole["model"][n], other["model"][n]) for n in whole["model"])


@pytest.mark.slow
def test_a_folder_that_was_read_only_for_a_while(run):
    events = "2: sh('mount -t tmpfs -o ro none OUT'), 7: sh('umount OUT')"
    process = run("400k", events=events)
    read_only = os.strerror(errno.EROFS)
    (said,) = [line for line in errors(process) if "model_0000002.pth" in line]
    assert f"model_0000002.pth: {read_only}; the last checkpoint is none; training goes" in said
    assert process.stderr.count("log.txt can't be written") == 1
    assert "model_final.pth" in process.stdout.splitlines()


@pytest.mark.slow
def test_a_folder_that_stays_read_only(run):
    process = run("400k", events="4: sh('mount -t tmpfs -o ro none OUT')", status=2)
    assert f"model_final.pth: {os.strerror(errno.EROFS)}; " in ending(process)


def test_a_folder_that_is_gone(run, tmp_path):
    process = run("400k", events="2: sh('rm -r OUT/*')")
    (said,) = [line for line in errors(process) if "metrics.json" in line]
    assert "metrics.json (No such file or directory): training goes on without" in said
    listed = process.stdout.splitlines()
    assert {"model_0000002.pth", "model_final.pth", "log.txt", "evaluation"} <= {*listed}


WRITERS = """
import json, sys
from pathlib import Path
from detectron2.utils.events import EventStorage, JSONWriter, TensorboardXWriter
from ms_detr.engine.logs import setup_logging
from ms_detr.engine.metrics import Expendable, ExpendableOnce

out = Path(sys.argv[1])
setup_logging(out.parent / "logs")
board = TensorboardXWriter(str(out))
writers = [Expendable(JSONWriter(str(out / "metrics.json")), out / "metrics.json")]
writers += [ExpendableOnce(board, out)]
with EventStorage(0) as storage:
    for step in range(30):
        for number in range(10):
            storage.put_scalar(f"loss{number}", step + number / 7, smoothing_hint=False)
        if step in (5, 20):
            (out / "fill").write_bytes(b"") if step == 20 else fill(out / "fill")
        for writer in writers:
            writer.write()
        if step == 8:
            writers[1]._try(board._writer.flush)
        storage.step()
for writer in writers:
    writer.close()
print(len([json.loads(line) for line in (out / "metrics.json").read_text().splitlines()]))
"""
FILLER = """
def fill(path):
    try:
        with path.open("wb", buffering=0) as file:
            while file.write(bytes(512)):
                pass
    except OSError:
        pass
"""


def test_writers_say_it_once_and_go_on(disks, root, tmp_path):
    """TensorBoard's writes in a thread, which dies of it."""
    script = tmp_path / "writers.py"
    script.write_text(FILLER + WRITERS)
    environment = dict(os.environ)
    command = f"{sys.executable} {script} {tmp_path / 'out'}"
    done = on_a_small_disk(tmp_path / "out", "100k", command, env=environment, check=True)
    assert "Traceback" not in done.stderr + done.stdout
    said = sorted(line.partition(": ")[2] for line in errors(done))
    assert said == [
        f"{writer} can't write to {path} ({NO_SPACE}): training goes on without"
        for writer, path in (
            ("JSONWriter", tmp_path / "out" / "metrics.json"),
            ("TensorboardXWriter", tmp_path / "out"),
        )
    ]
    assert int(done.stdout.splitlines()[-1]) > 14  # whole lines: before and after


@contextmanager
def small_files(size):
    """For a while files can't be larger than some bytes."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("model.pth", lambda path: write_checkpoint(path, {"a": torch.ones(9999)})),
        ("text.json", lambda path: write_text(path, "x" * 9999)),
        ("picture.png", lambda path: draw_comparison([("a", {"bbox": 1.0})], path)),
        ("train/000001.png", lambda path: generate_demo(path.parents[1], 1, 1, progress=False)),
    ],
)
def test_every_writer_names_its_file(tmp_path, name, write):
    with small_files(4000), pytest.raises(OSError) as error:
        write(tmp_path / name)
    assert short_message(error.value) == f"{tmp_path / name}: {os.strerror(errno.EFBIG)}"
    left = [path.name for path in tmp_path.rglob("*") if path.is_file()]
    assert left in ([], ["000001.png"])  # a demo without its annotation file is unfinished


def test_full_device():
    with pytest.raises(OSError) as error, explained("/dev/full", 2_000_000):
        Path("/dev/full").write_bytes(b"x")
    message = short_message(error.value)
    assert message.startswith(f"/dev/full: {NO_SPACE}: about 2 MB are needed, ")


class _Trainer:
    def __init__(self, storage):
        self.storage, self.iter, self.max_iter = storage, 0, 2


def test_results_that_cannot_be_written_count_all_the_same(tmp_path, caplog):
    results = {"bbox": {"AP": 3.0}}

    def evaluate():
        write_results(tmp_path / "file", results, [], [])

    (tmp_path / "file").touch()  # where a folder is needed
    with pytest.raises(UnwrittenError) as error:
        evaluate()
    assert error.value.results == results
    model = nn.Linear(2, 2)
    checkpointer = Checkpointer(
        tmp_path, model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1)
    )
    hook = EvaluationHook(evaluate, 1, checkpointer)
    with EventStorage(0) as storage:
        hook.trainer = _Trainer(storage)
        hook.after_step()
        assert "results.json: File exists; the results are in the log alone; training goes" in (
            caplog.text
        )
        assert storage.latest()["bbox/AP"][0] == 3.0 and checkpointer.best_score() == 3.0
        hook.trainer.iter = 2
        with pytest.raises(SystemLimitError, match="the results are in the log alone"):
            hook.after_train()


def test_best_weights_without_room_end_no_training(tmp_path, caplog):
    model = nn.Linear(99, 99)
    checkpointer = Checkpointer(
        tmp_path, model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1)
    )
    hook = EvaluationHook(lambda: {"bbox": {"AP": 3.0}}, 1, checkpointer)
    with EventStorage(0) as storage, small_files(4000):
        hook.trainer = _Trainer(storage)
        hook.after_step()
    assert "model_best.pth: File too large; the weights of box AP 3.00 are lost" in caplog.text
