import pytest
import torch

from ms_detr.structures import Targets


def image(labels, boxes):
    return {"labels": torch.tensor(labels), "boxes": torch.tensor(boxes).view(-1, 4)}


def test_images_are_padded_with_whole_boxes():
    first, second = [0.1, 0.2, 0.3, 0.4], [0.5, 0.5, 0.1, 0.1]
    images = [image([7, 3], [first, second]), image([], []), image([5], [second])]
    targets = Targets.from_list(images)
    assert targets.counts == (2, 0, 1)
    assert targets.labels.tolist() == [[7, 3], [0, 0], [5, 0]]
    assert targets.valid.tolist() == [[True, True], [False, False], [True, False]]
    whole = [0.5, 0.5, 1.0, 1.0]
    expected = torch.tensor([[first, second], [whole, whole], [second, whole]])
    assert torch.equal(targets.boxes, expected)
    assert targets.labels.dtype == torch.int64


def test_a_batch_without_objects():
    targets = Targets.from_list([image([], []), image([], [])])
    assert targets.labels.shape == targets.valid.shape == (2, 0)
    assert targets.boxes.shape == (2, 0, 4)
    assert targets.counts == (0, 0)


def test_an_empty_batch():
    with pytest.raises(ValueError, match="at least one image"):
        Targets.from_list([])


def test_labels_and_boxes_must_fit():
    with pytest.raises(ValueError, match=r"image 1: 2 labels need boxes of shape \(2, 4\)"):
        Targets.from_list([image([], []), image([1, 2], [[0.5, 0.5, 0.1, 0.1]])])


def test_the_inputs_are_not_shared():
    boxes = torch.tensor([[0.5, 0.5, 0.1, 0.1]])
    targets = Targets.from_list([{"labels": torch.tensor([1]), "boxes": boxes}])
    boxes.zero_()
    assert targets.boxes.max() == 0.5


def test_moving_to_a_device_keeps_everything():
    targets = Targets.from_list([image([7, 3], [[0.1, 0.2, 0.3, 0.4]] * 2), image([], [])])
    moved = targets.to(torch.device("meta"))
    assert {x.device.type for x in (moved.labels, moved.boxes, moved.valid)} == {"meta"}
    assert moved.counts == targets.counts
    same = targets.to(torch.device("cpu"))
    assert torch.equal(same.labels, targets.labels)
    assert torch.equal(same.boxes, targets.boxes)
    assert torch.equal(same.valid, targets.valid)
