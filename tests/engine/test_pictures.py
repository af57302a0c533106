"""Pictures in the event file of a training, against what the drawing functions make."""

import io
import re

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils.events import EventStorage
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ms_detr.config import load
from ms_detr.engine import load_model, train
from ms_detr.engine.pictures import LEAST, Pictures
from ms_detr.evaluation import evaluating
from ms_detr.visualization import assigned, pair
from tests.tiny_demo import on_demo_data

CONFIG = "demo/ms_detr.py"


@pytest.fixture(scope="module")
def overrides(demo_dataset):
    """The demo's config on a few images, a model that steps in milliseconds."""
    return [
        *on_demo_data(demo_dataset, "pictured"),
        "dataloader.train.total_batch_size=2",
        "model.encoder.num_layers=1",
        "model.decoder.num_layers=2",
        "model.num_queries=20",
        "train.device=cpu",
        "train.max_iter=2",
        "train.eval_epochs=0.0834",  # after each iteration
        "train.report=false",
    ]


@pytest.fixture(scope="module")
def run(overrides, tmp_path_factory):
    """A run that draws two images after each of two iterations: its config and event file."""
    folder = tmp_path_factory.mktemp("pictures")
    cfg = load(CONFIG, [*overrides, f"train.output_dir={folder}", "train.pictures=2"])
    # Something to draw: scores as a trained model's.
    cfg.model.criterion.terms.o2o.losses["class"].weight = 0.0
    train(cfg)
    events = EventAccumulator(str(folder), {"images": 0, "scalars": 0})
    events.Reload()
    return cfg, folder, events


@pytest.fixture(scope="module")
def model(run):
    return load_model(run[1] / "model_final.pth", run[0])


def pixels(event):
    return np.asarray(Image.open(io.BytesIO(event.encoded_image_string)).convert("RGB"))


def test_each_evaluation_has_the_same_images(run):
    _, _, events = run
    names = events.Tags()["images"]
    numbers = {re.fullmatch(r"(predictions|assignments)/(\d+)", name)[2] for name in names}
    assert len(names) == 4 and len(numbers) == 2
    for name in names:
        assert [event.step for event in events.Images(name)] == [0, 2]
    scores = events.Scalars("bbox/AP")
    assert [event.step for event in scores] == [0, 2]


def test_pixels_are_those_of_the_drawing_functions(run, model):
    cfg, _, events = run
    metadata = MetadataCatalog.get("pictured_val")
    records = {record["image_id"]: record for record in DatasetCatalog.get("pictured_val")}
    mapper = Pictures(cfg, model, 2)._mapper
    seen = 0
    for name in events.Tags()["images"]:
        kind, _, number = name.partition("/")
        record = records[int(number)]
        shown = pixels(events.Images(name)[-1])
        if kind == "predictions":
            with evaluating(model):
                instances = model([mapper(False)(record)])[0]["instances"]
            expected = np.asarray(pair(record, instances, LEAST, metadata))
        else:
            expected = assigned(model, mapper(True)(record), record, metadata, last=True)
            assert expected.shape[1] > expected.shape[0] * 1.5  # both terms, in a row
        np.testing.assert_array_equal(shown, expected)
        seen += len(np.unique(shown)) > 50
    assert seen == 4
    # They change with the weights.
    name = next(name for name in events.Tags()["images"] if name.startswith("assignments"))
    first, last = (pixels(event) for event in events.Images(name))
    assert (first != last).any()


def test_a_training_is_the_same_with_and_without_pictures(run, overrides, tmp_path):
    _, folder, _ = run
    cfg = load(CONFIG, [*overrides, f"train.output_dir={tmp_path}", "train.pictures=0"])
    cfg.model.criterion.terms.o2o.losses["class"].weight = 0.0
    train(cfg)
    one, other = (
        torch.load(f / "model_final.pth", weights_only=True)["model"] for f in (folder, tmp_path)
    )
    assert one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)
    events = EventAccumulator(str(tmp_path), {"images": 0})
    events.Reload()
    assert events.Tags()["images"] == []


def test_what_is_in_the_way_is_said_once(run, model, monkeypatch):
    monkeypatch.setattr(DatasetCatalog, "get", lambda name: 1 / 0)
    messages = []
    monkeypatch.setattr("ms_detr.engine.pictures.logger.error", lambda *args: messages.append(args))
    pictures = Pictures(run[0], model, 2)
    with EventStorage(0) as storage:
        pictures.draw()
        pictures.draw()
        assert storage._vis_data == []
    assert [args[1] for args in messages] == ["division by zero"]


def test_other_models_are_left_alone(run):
    with EventStorage(0) as storage:
        Pictures(run[0], torch.nn.Linear(1, 1), 2).draw()
        assert storage._vis_data == []


def test_pictures_do_not_pile_up(run, model, monkeypatch):
    """Where nobody takes them, as without TensorBoard."""
    monkeypatch.setattr(Pictures, "_pictures", lambda self: {"a": np.zeros((4, 6, 3), np.uint8)})
    pictures = Pictures(run[0], model, 1)
    with EventStorage(0) as storage:
        for _ in range(3):
            pictures.draw()
        ((name, picture, _),) = storage._vis_data
        assert name == "a" and picture.shape == (3, 4, 6)
