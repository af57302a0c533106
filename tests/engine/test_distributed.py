"""Two real processes on the CPU, talking through gloo."""

import copy
import json
import multiprocessing
import warnings
from datetime import timedelta

import pytest
import torch
from detectron2.layers import FrozenBatchNorm2d
from detectron2.utils import comm
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ms_detr.config import load
from ms_detr.data import coco_dataset
from ms_detr.engine import launch, train
from ms_detr.engine.distribution import (
    average_buffers,
    distribute,
    exchanged_bytes,
    keep_gradient_layout,
    synchronise_batchnorm,
)
from ms_detr.engine.failures import Failures
from ms_detr.engine.parts import in_parts
from ms_detr.errors import NonFiniteError
from ms_detr.evaluation import CocoEvaluator
from ms_detr.evaluation.results import PREDICTIONS
from tests.engine.small_steps import (
    Root,
    batch,
    detections,
    detector,
    part,
    trainer,
    with_a_poisoned_batch,
)
from tests.engine.standin import CONFIG, overrides

SKIPS = [(kind, parts) for kind in ("nan", "raises") for parts in (1, 2)]


def in_process(folder, data):
    """The checks that need two processes; what they find goes to the parent through files."""
    torch.set_num_threads(1)
    rank = comm.get_rank()
    found = {"local": (comm.get_local_rank(), comm.get_local_size())}
    found["strides"] = strides_in_ddp()
    found["exchanged"] = exchanged_bytes(distribute(partly_frozen()))
    found["start method"] = multiprocessing.get_start_method()

    model = detector()
    run = trainer(DistributedDataParallel(model), part(batch()))
    run.train(0, 3)
    found["weights"] = dict(model.state_dict())
    found["metrics"] = {n: h.latest() for n, h in run.storage.histories().items()}

    model = detector(counting=True)
    trainer(DistributedDataParallel(model), part(batch())).train(0, 3)
    found["counted weights"] = dict(model.state_dict())

    # Image 3 is in the second process's part.
    for kind in ("nan", "raises"):
        model = detector(poison=3, poison_raises=kind == "raises")
        before = copy.deepcopy(model.state_dict())
        failures = Failures(last_checkpoint=lambda: "kept.pth")
        run = trainer(DistributedDataParallel(model), part(batch()), failures=failures)
        try:
            run.train(0, 3)
        except NonFiniteError as error:
            found[kind] = str(error)
        after = model.state_dict()
        found[f"{kind} unchanged"] = all(torch.equal(before[n], after[n]) for n in before)

    for slope in (1.0, 1e25):
        run = trainer(DistributedDataParallel(root := Root(slope)), part(batch()), accumulate=2)
        with pytest.raises(NonFiniteError) as error:
            run.train(0, 3)
        found[f"slope {slope}"] = str(error.value), root.passes, root.draws, root.weight.grad

    for kind, parts in SKIPS:  # the image is in the second process's last part
        model = detector(poison=9, poison_raises=kind == "raises")
        with_a_poisoned_batch(DistributedDataParallel(model), part, accumulate=parts)
        found[f"{kind} skipped, {parts}"] = dict(model.state_dict())
    for kind in ("nan", "raises"):
        model = detector(counting=True, poison=9, poison_raises=kind == "raises")
        with_a_poisoned_batch(DistributedDataParallel(model), part)
        found[f"{kind} skipped, counted"] = dict(model.state_dict())

    coco_dataset(data.name, data / "images", data / "annotations.json")
    evaluator = CocoEvaluator(data.name, nms_threshold=0.5)
    inputs = part(batch(12))
    evaluator.process(inputs, detections(inputs))
    found["results"] = dict(evaluator.evaluate())

    evaluator.reset()
    outputs = detections(inputs)
    if rank == 1:
        outputs[0]["instances"].pred_boxes.tensor[0, 0] = float("nan")
    evaluator.process(inputs, outputs)
    try:
        evaluator.evaluate()
    except NonFiniteError as error:
        found["broken"] = str(error)
    found["buffers"] = buffers_after_averaging(rank)
    options = overrides(
        data,
        folder / "run",
        "model.batch_statistics=true",
        "dataloader.train.total_batch_size=4",
        "train.max_iter=6",
        "+train.ema={decay: 0.5}",
    )
    found["reported"] = train(load(CONFIG, options))
    found["statistics"] = average_of_statistics()
    torch.save(found, folder / f"{rank}.pt")


def partly_frozen():
    """A model of 3 * 4 + 4 numbers that are learnt, and others."""
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm2d(5), nn.Linear(4, 6))
    model[1:].requires_grad_(False)
    return model


def average_of_statistics():
    """Of a model whose processes see other images: each one's, and what is made of them."""
    run = trainer(DistributedDataParallel(model := detector(batch_statistics=True)), part(batch()))
    run.train(0, 3)
    own = {name: value.clone() for name, value in model.named_buffers()}
    average_buffers(model)
    return own, dict(model.named_buffers())


def buffers_after_averaging(rank):
    model = nn.Sequential(nn.BatchNorm2d(3), FrozenBatchNorm2d(3))
    model.register_buffer("flags", torch.tensor([True, rank == 0]))
    model.register_buffer("short", torch.tensor([1.5, rank], dtype=torch.bfloat16))
    model[0].running_mean[:] = torch.tensor([1.0, 2.0, 3.0]) * (rank + 1)
    model[0].num_batches_tracked += 5 - rank
    model[1].running_var[:] = torch.tensor([0.1, 0.2, 0.3])
    average_buffers(model)
    return dict(model.named_buffers())


class Strided(torch.autograd.Function):
    """The gradient of a 1x1 kernel as convolutions over channels-last images give it."""

    @staticmethod
    def forward(ctx, weight):
        return weight.sum()

    @staticmethod
    def backward(ctx, gradient):
        return gradient.new_ones(4, 3).as_strided((4, 3, 1, 1), (3, 1, 3, 3))


class Kernel(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4, 3, 1, 1))

    def forward(self):
        return Strided.apply(self.weight)


def strides_in_ddp():
    """What DDP has to say, once, about such gradients: of our model, and of a bare one."""
    said = []
    for wrap in (distribute, DistributedDataParallel):
        model = wrap(Kernel())
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            model().backward()
        said.append([str(w.message) for w in caught])
    return said


@pytest.fixture(scope="module")
def found(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("two_processes")
    limit = timedelta(seconds=60)  # a wait for a process that is gone fails, and doesn't hang
    launch(in_process, (folder, data), num_processes=2, device="cpu", timeout=limit)
    results = [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(2)]
    return [{**result, "folder": folder} for result in results]


def test_detectron2_knows_the_local_ranks(found):
    assert [result["local"] for result in found] == [(0, 2), (1, 2)]


def test_loader_workers_start_as_in_one_process(found):
    assert found[0]["start method"] == multiprocessing.get_start_method()


def test_training_steps_equal_those_of_one_process(found):
    model = detector()
    run = trainer(model, batch())
    run.train(0, 3)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(found[0]["weights"][name], value, rtol=1e-9, atol=1e-12)
        assert torch.equal(found[0]["weights"][name], found[1]["weights"][name])
    # The losses that are logged, in float32, are those of the whole batch.
    for name, history in run.storage.histories().items():
        if name != "data_time":
            assert found[0]["metrics"][name] == pytest.approx(history.latest(), rel=2**-20), name


def test_what_each_process_counts_becomes_what_all_have(found):
    """Of one and five objects; and a step in which one process fails leaves none waiting."""
    pairs = {"counted weights": "weights"}
    pairs |= {f"{kind} skipped, counted": f"{kind} skipped, 1" for kind in ("nan", "raises")}
    for counted, known in pairs.items():
        for name, value in found[0][known].items():
            torch.testing.assert_close(found[0][counted][name], value, rtol=1e-9, atol=1e-12)
            assert torch.equal(found[0][counted][name], found[1][counted][name])


def test_non_finite_loss_stops_all_before_the_weights_change(found):
    assert found[0]["nan"] == found[1]["nan"]
    for said in ("iteration 0", "rank 1: o2m/loss_class/1;", "3 (3.png)", "kept.pth"):
        assert said in found[0]["nan"]
    assert "rank 0" not in found[0]["nan"]
    assert all(result["nan unchanged"] for result in found)


def test_error_in_one_forward_pass_stops_all(found):
    assert found[0]["raises"] == found[1]["raises"]
    assert "rank 1: matching cost of term 'o2o' is not finite in layer 1" in found[0]["raises"]
    assert all(result["raises unchanged"] for result in found)


def test_who_is_to_blame_for_a_gradient(found):
    """After their exchange it isn't finite anywhere: each looks at its own."""
    one, other = (result["slope 1.0"] for result in found)
    assert one[0] == other[0] and "rank 1: gradient of weight; its images: 2" in one[0]
    assert "rank 0" not in one[0]
    all_alike = found[0]["slope 1e+25"][0]
    for rank in (0, 1):
        assert f"rank {rank}: gradient of the sum of squares overflows; its images:" in all_alike
    for _, passes, draws, gradient in (one, other):
        assert passes == 0 and gradient is None  # as if no pass had been
        assert len(draws) == 4 and draws[:2] == draws[2:]


@pytest.mark.parametrize(("kind", "parts"), SKIPS)
def test_a_step_is_skipped_by_all(found, kind, parts):
    """In the second process alone it isn't finite; the others are as if it had not been."""
    model = detector()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        sum(model(in_parts(batch(), 1, 0.0)[0]).values()).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
    run = with_a_poisoned_batch(detector(poison=9))
    assert run.failures.skipped == 1
    for name, value in model.state_dict().items():
        skipped = found[0][f"{kind} skipped, {parts}"][name]
        torch.testing.assert_close(skipped, value, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(run.model.state_dict()[name], value, rtol=1e-9, atol=1e-12)
        assert torch.equal(skipped, found[1][f"{kind} skipped, {parts}"][name])


def test_gathered_evaluation_equals_that_of_one_process(found, data):
    coco_dataset(data.name, data / "images", data / "annotations.json")
    evaluator = CocoEvaluator(data.name, nms_threshold=0.5)
    evaluator.process(batch(12), detections(batch(12)))
    results = evaluator.evaluate()
    assert results["bbox"]["AP"] > 0.5
    for task, values in results.items():
        assert found[0]["results"][task] == pytest.approx(values, nan_ok=True)
    assert found[1]["results"] == {}


def test_buffers_that_differ_become_their_mean(found):
    first, second = (result["buffers"] for result in found)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert first["0.running_mean"].tolist() == [1.5, 3.0, 4.5]
    assert first["0.num_batches_tracked"] == 5  # a whole number: the first one's
    assert first["flags"].tolist() == [True, True]
    assert first["short"].tolist() == [1.5, 0.5] and first["short"].dtype == torch.bfloat16
    assert torch.equal(first["1.running_var"], torch.tensor([0.1, 0.2, 0.3]))


def test_statistics_of_a_training_are_those_of_both_processes(found):
    (one, agreed), (other, same) = (result["statistics"] for result in found)
    name = "backbone.1.running_mean"
    assert not torch.equal(one[name], other[name])
    for name in one:
        assert torch.equal(agreed[name], same[name])
        mean = (one[name].double() + other[name].double()) / 2
        torch.testing.assert_close(agreed[name].double(), mean, rtol=1e-6, atol=0)


def test_reported_results_are_those_of_the_checkpoint(found, train, tmp_path):
    """BatchNorm follows the images of its own process, and so has its own opinion there."""
    weights = found[0]["folder"] / "run" / "model_final.pth"
    trained = ("model.batch_statistics=true", f"train.init_checkpoint={weights}")
    again = train("again", "--eval-only", *trained)
    assert again["bbox"] == pytest.approx(found[0]["reported"]["bbox"], nan_ok=True)
    one, other = (
        json.loads((folder / "evaluation" / PREDICTIONS).read_text())
        for folder in (found[0]["folder"] / "run", tmp_path / "again" / "eval_only")
    )
    assert len(one) == len(other) == 36
    by_image = {(d["image_id"], d["category_id"], d["score"]): d["bbox"] for d in other}
    assert {(d["image_id"], d["category_id"], d["score"]): d["bbox"] for d in one} == by_image


def test_the_average_that_is_evaluated_is_the_one_that_is_saved(found, train):
    """Its statistics are the mean of the processes', too, in both files."""
    folder = found[0]["folder"] / "run"
    weights = f"train.init_checkpoint={folder / 'model_ema.pth'}"
    again = train("average", "--eval-only", "model.batch_statistics=true", weights)
    reported = found[0]["reported"]
    assert again["bbox"] == pytest.approx(reported["ema"]["bbox"], nan_ok=True)
    last, average = (torch.load(folder / f"model_{name}.pth") for name in ("final", "ema"))
    names = [name for name in average["model"] if "running" in name]
    assert names
    for name in names:
        # Statistics aren't averaged over steps: they are the model's.
        assert torch.equal(average["model"][name], last["model"][name])
        assert torch.equal(average["model"][name], last["ema"][f"module.{name}"])


def test_what_is_learnt_is_exchanged(found):
    assert [result["exchanged"] for result in found] == [4 * 16] * 2
    assert exchanged_bytes(distribute(partly_frozen())) == 0  # in one process


def test_ddp_has_nothing_to_say_about_the_layout_of_gradients(found):
    for ours, bare in (result["strides"] for result in found):
        assert ours == []
        assert "Grad strides do not match" in bare[0]


def test_gradients_have_the_strides_of_their_weights():
    model = Kernel()
    keep_gradient_layout(model)
    model().backward()
    assert model.weight.grad.stride() == model.weight.stride() == (3, 1, 1, 1)
    conv = nn.Conv2d(3, 4, 3)
    keep_gradient_layout(conv)
    image = torch.rand(1, 3, 8, 8).contiguous(memory_format=torch.channels_last)
    conv(image).square().sum().backward()
    (expected,) = torch.autograd.grad(conv(image).square().sum(), conv.weight)
    assert torch.equal(conv.weight.grad, expected)


def test_synchronised_batchnorm(monkeypatch, caplog):
    model = detector(batch_statistics=True)
    names = list(model.state_dict())
    assert synchronise_batchnorm(model, torch.device("cpu")) is model  # one process
    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    with pytest.raises(ValueError, match=r"^train\.sync_batchnorm=true needs CUDA"):
        synchronise_batchnorm(model, torch.device("cpu"))
    model = synchronise_batchnorm(model, torch.device("cuda"))
    assert isinstance(model.backbone[1], nn.SyncBatchNorm)
    assert list(model.state_dict()) == names
    assert not caplog.messages
    synchronise_batchnorm(nn.Sequential(FrozenBatchNorm2d(3)), torch.device("cuda"))
    assert "train.sync_batchnorm changes nothing" in caplog.text


def test_a_broken_detection_stops_all(found):
    assert "on 1 images (ids 6)" in found[0]["broken"]
    assert found[0]["broken"] == found[1]["broken"]
