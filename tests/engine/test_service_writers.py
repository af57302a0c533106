"""Writers to services, `train.writers`: what they are handed, resumed, missing and broken ones.

W&B and MLflow themselves are asked where they are installed.
"""

import json
import re
import sys

import pytest
from detectron2.config import LazyCall as L

from ms_detr.config import load
from ms_detr.engine import MlflowWriter, WandbWriter
from ms_detr.engine import train as run_training
from ms_detr.engine.checks import check_config
from ms_detr.engine.external import ServiceWriter, begin_writers
from ms_detr.errors import ConfigError, MissingPackageError, UserError
from tests.engine.standin import CONFIG, overrides

calls: list[tuple] = []  # of the service below


class Service(ServiceWriter):
    """Notes what it is asked for, and breaks when it is told to."""

    id_file = "service_id"

    def __init__(self, breaks_at: int = -1, breaks_at_start: bool = False):
        super().__init__()
        self._breaks_at, self._breaks_at_start = breaks_at, breaks_at_start

    def start(self, run_id, folder, config):
        calls.append(("start", run_id, config))
        if self._breaks_at_start:
            raise ConnectionError("no network")
        return run_id or "run 7"

    def send(self, iteration, values):
        if iteration == self._breaks_at:
            raise ValueError("service is gone")
        calls.append(("send", iteration, dict(values)))

    def finish(self):
        calls.append(("finish",))


@pytest.fixture
def train(data, tmp_path):
    calls.clear()

    def call(writers, *opts, resume=False):
        cfg = load(CONFIG, overrides(data, tmp_path / "out", *opts))
        cfg.train.writers = writers
        run_training(cfg, resume=resume)
        return tmp_path / "out"

    return call


def sent() -> dict[int, dict[str, float]]:
    return {call[1]: call[2] for call in calls if call[0] == "send"}


def logged(folder) -> dict[int, dict[str, float]]:
    found: dict[int, dict[str, float]] = {}
    for line in (folder / "metrics.json").read_text().splitlines():
        values = json.loads(line)
        found.setdefault(values.pop("iteration"), {}).update(values)
    return found


SMOOTHED = ("time", "data_time")  # metrics.json has the median of some steps


def without_times(found):
    return {i: {k: v for k, v in each.items() if k not in SMOOTHED} for i, each in found.items()}


def test_a_service_gets_what_the_metrics_have(train):
    folder = train([L(Service)()])
    assert [call[0] for call in calls].count("start") == 1 and calls[-1] == ("finish",)
    assert without_times(sent()) == without_times(logged(folder))
    assert len([call for call in calls if call[0] == "send"]) == len(sent())  # each once
    _, run_id, config = calls[0]
    assert run_id is None and config["optimizer.lr"] == 1e-3 and config["train.seed"] == 1
    assert (folder / "service_id").read_text() == "run 7"


def test_a_resumed_run_goes_on_in_the_same_one(train):
    train([L(Service)()], "train.max_iter=3")
    assert list(sent()) == [0, 1, 2, 3]  # the last is the evaluation's
    calls.clear()
    train([L(Service)()], resume=True)
    assert calls[0][:2] == ("start", "run 7")
    assert min(sent()) == 3 and max(sent()) == 9


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"breaks_at": 4}, "Service: service is gone: training goes on without"),
        ({"breaks_at_start": True}, "Service: no network: training goes on without"),
    ],
)
def test_a_broken_service_ends_no_training(train, options, message):
    folder = train([L(Service)(**options), L(Service)()])
    log = (folder / "log.txt").read_text()
    assert log.count(message) == 1 and (folder / "model_final.pth").is_file()
    assert set(sent()) == set(logged(folder))  # the other one has them all
    assert calls.count(("finish",)) == 1


def test_what_is_no_writer_is_an_error_at_the_start(train, tmp_path):
    with pytest.raises(ConfigError, match="train.writers lists str: it takes objects such as L"):
        train(["wandb"])
    with pytest.raises(ConfigError, match=r"train\.writers must be a list of writers"):
        train("wandb")
    with pytest.raises(ConfigError, match="train.writers can't be built .*'project'"):
        train([L(WandbWriter)()])
    assert not (tmp_path / "out" / "metrics.json").exists()


@pytest.mark.parametrize(
    ("writer", "package"),
    [(L(WandbWriter)(project="p"), "wandb"), (L(MlflowWriter)(experiment="e"), "mlflow")],
)
def test_a_missing_package_is_an_error_at_the_start(train, monkeypatch, tmp_path, writer, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingPackageError, match=f"needs {package}: python -m pip install"):
        train([writer])
    assert issubclass(MissingPackageError, UserError)
    assert not (tmp_path / "out" / "metrics.json").exists()


def test_other_processes_send_nothing(monkeypatch):
    calls.clear()
    monkeypatch.setattr("ms_detr.engine.external.comm.is_main_process", lambda: False)
    writer = Service()
    begin_writers([writer], None, None)
    writer.write()
    writer.close()
    assert calls == []


def test_wandb_itself(train, monkeypatch):
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    writer = L(WandbWriter)(project="ms_detr_test", mode="offline")
    folder = train([writer], "train.max_iter=3")
    number = (folder / "wandb_run_id").read_text()
    train([writer], resume=True)
    wandb.teardown()  # a process of its own writes the files, and may be behind
    assert "WandbWriter" not in (folder / "log.txt").read_text()
    files = list((folder / "wandb").glob(f"offline-run-*/run-{number}.wandb"))
    assert len(files) == 2 and all(b"o2o/loss_bbox/0" in file.read_bytes() for file in files)
    assert (folder / "wandb_run_id").read_text() == number


def test_mlflow_itself(train, tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # else it wants a database
    uri = (tmp_path / "store").as_uri()
    writer = L(MlflowWriter)(experiment="e", tracking_uri=uri)
    folder = train([writer], "train.max_iter=3")
    train([writer], resume=True)
    assert "MlflowWriter" not in (folder / "log.txt").read_text()
    number = (folder / "mlflow_run_id").read_text()
    client = mlflow.MlflowClient(uri)
    assert len(client.search_runs([client.get_experiment_by_name("e").experiment_id])) == 1
    run = client.get_run(number)
    assert run.info.status == "FINISHED" and run.data.params["optimizer.lr"] == "0.001"
    for name, theirs in (("total_loss", "total_loss"), ("bbox/AR@100", "bbox/AR_at_100")):
        expected = {i: each[name] for i, each in logged(folder).items() if name in each}
        history = {m.step: m.value for m in client.get_metric_history(number, theirs)}
        assert expected.items() <= history.items()


def test_the_config_of_the_page_names_both(root, tmp_path):
    """Read as a config is; the packages themselves are asked for later."""
    (block,) = re.findall(r"```python\n(# demo_in_wandb.py\n.*?)```", page(root), re.DOTALL)
    (tmp_path / "demo_in_wandb.py").write_text(block)
    cfg = load(tmp_path / "demo_in_wandb.py")
    check_config(cfg)
    targets = [node["_target_"] for node in cfg.train.writers]
    assert [str(target).rpartition(".")[2].strip("'>") for target in targets] == [
        "WandbWriter",
        "MlflowWriter",
    ]


def page(root) -> str:
    return (root / "docs" / "seeing.md").read_text()
