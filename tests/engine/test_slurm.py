"""Tasks of srun, without a SLURM: its environment is what they see of it."""

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from ms_detr.engine import read_checkpoint
from ms_detr.engine.slurm import as_torchruns, first_host, tasks_by_node
from ms_detr.errors import ConfigError

from .standin import CONFIG, overrides
from .test_run import assert_same

JOB = {
    "SLURM_JOB_ID": "4711",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NUM_TASKS": "10",
    "SLURM_STEP_TASKS_PER_NODE": "4(x2),2",
    "SLURM_STEP_NODELIST": "gpu[07-08,12]",
    "SLURM_NODEID": "2",
    "SLURM_PROCID": "9",
    "SLURM_LOCALID": "1",
}


def test_a_task_is_described_as_torchrun_does():
    assert as_torchruns(JOB) == {
        "RANK": "9",
        "WORLD_SIZE": "10",
        "LOCAL_RANK": "1",
        "LOCAL_WORLD_SIZE": "2",
        "GROUP_RANK": "2",
        "MASTER_ADDR": "gpu07",
        "MASTER_PORT": str(15000 + 4711),
    }
    chosen = as_torchruns(JOB | {"MASTER_PORT": "29501", "MASTER_ADDR": "head"})
    assert (chosen["MASTER_PORT"], chosen["MASTER_ADDR"]) == ("29501", "head")


@pytest.mark.parametrize("left_out", ["SLURM_STEP_NUM_TASKS", "SLURM_PROCID", "SLURM_LOCALID"])
def test_a_batch_script_is_no_task(left_out):
    assert as_torchruns({k: v for k, v in JOB.items() if k != left_out}) == {}
    assert as_torchruns(JOB | {"SLURM_STEP_NUM_TASKS": "1"}) == {}


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("node1", "node1"),
        ("node1,node2", "node1"),
        ("a[003-005,009],b1", "a003"),
        ("rack2-n[7,9]-ib", "rack2-n7-ib"),
    ],
)
def test_first_host(text, host):
    assert first_host(text) == host


def test_tasks_by_node():
    assert tasks_by_node("8") == [8]
    assert tasks_by_node("4(x2),2,1(x3)") == [4, 4, 2, 1, 1, 1]


@pytest.mark.parametrize(
    ("tasks", "node", "local", "block", "cyclic"),
    # Tasks that srun has dealt out to the nodes in turn, one after the other.
    [("2(x2)", 0, 1, 1, 2), ("2(x2)", 1, 0, 2, 1), ("3,1", 0, 1, 1, 2), ("3,1", 1, 0, 3, 1)],
)
def test_the_tasks_of_a_node_follow_each_other(tasks, node, local, block, cyclic):
    here = {"SLURM_NODEID": str(node), "SLURM_LOCALID": str(local)}
    job = JOB | here | {"SLURM_STEP_TASKS_PER_NODE": tasks, "SLURM_STEP_NUM_TASKS": "4"}
    assert as_torchruns(job | {"SLURM_PROCID": str(block)})["RANK"] == str(block)
    message = rf"task {cyclic} what has to be task {block}, .* srun --distribution=block"
    with pytest.raises(ConfigError, match=message):
        as_torchruns(job | {"SLURM_PROCID": str(cyclic)})


@pytest.fixture
def srun(data, tmp_path):
    """Run ``ms-detr train`` as two tasks on this machine; their results by rank."""

    def call(output, *opts):
        def start(rank):
            tasks = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_TASKS_PER_NODE": "2"}
            own = {"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank), "SLURM_NODEID": "0"}
            job = {"SLURM_STEP_NODELIST": "127.0.0.1", "SLURM_JOB_ID": str(os.getpid())}
            environment = os.environ | {"OMP_NUM_THREADS": "1"} | JOB | tasks | own | job
            flags = [opt for opt in opts if opt.startswith("--")]
            keys = overrides(data, tmp_path / output, *(opt for opt in opts if opt not in flags))
            command = [sys.executable, "-m", "ms_detr", "train", CONFIG, *keys, *flags]
            return subprocess.run(
                command, env=environment, capture_output=True, text=True, timeout=120
            )

        with ThreadPoolExecutor(2) as pool:
            return list(pool.map(start, range(2)))

    return call


def test_two_tasks_train_as_one_process_does(srun, train, tmp_path):
    tasks = srun("two", "model.dropout=0", "train.eval_epochs=0")
    assert [task.returncode for task in tasks] == [0, 0], tasks[0].stderr
    train("one", "model.dropout=0", "train.eval_epochs=0")
    one, two = (read_checkpoint(tmp_path / x / "model_final.pth")["model"] for x in ("one", "two"))
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=1e-6, atol=1e-9)
    assert (tmp_path / "two" / "log.rank1.txt").is_file()


def test_a_layout_that_srun_has_not_given(srun):
    for task in srun("two", "--num-gpus=3"):
        assert task.returncode == 2
        assert "--num-gpus 3, but srun has started 2 of 2 processes here" in task.stderr


@pytest.mark.slow
def test_hours_that_are_over_end_a_run_that_goes_on_later(train, srun, tmp_path):
    train("whole", "model.dropout=0")
    tasks = srun("parts", "model.dropout=0", "+train.max_hours=1e-9")
    assert [task.returncode for task in tasks] == [128 + signal.SIGTERM] * 2
    assert "go on with --resume" in tasks[0].stderr and "Traceback" not in tasks[1].stderr
    log = (tmp_path / "parts" / "log.txt").read_text()
    assert log.count("train.max_hours are over: saving, to go on with --resume") == 1
    assert (tmp_path / "parts" / "last_checkpoint").read_text() == "model_0000000.pth"
    with pytest.raises(SystemExit) as ended:
        train("again", "model.dropout=0", "+train.max_hours=1e-9")
    assert ended.value.code == 128 + signal.SIGTERM
    train("again", "model.dropout=0", "--resume", "+train.max_hours=1")
    whole, again = (read_checkpoint(tmp_path / x / "model_final.pth") for x in ("whole", "again"))
    assert_same(whole["model"], again["model"])
