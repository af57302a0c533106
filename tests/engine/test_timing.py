"""Times of steps, with a device that does later what it is asked for. It never ran on a GPU."""

import time

import pytest
import torch
from fvcore.common.timer import Timer

from ms_detr.engine.timing import EventTimer, StepTimer, timer_of


class Device:
    """A device with a queue, whose clock and the host's are moved by hand; in seconds."""

    def __init__(self):
        self.now = self.free = 0.0  # the host's clock, and when the queue is done

    def work(self, seconds):
        self.free = max(self.now, self.free) + seconds

    def wait(self):
        self.now = max(self.now, self.free)


class Event:
    def __init__(self, device):
        self.device = device

    def record(self):
        self.at = max(self.device.now, self.device.free)

    def query(self):
        return self.at <= self.device.now

    def elapsed_time(self, other):
        assert self.query() and other.query()
        return 1000 * (other.at - self.at)


def steps(load, forward=3.0, backward=4.0, count=5):
    """What is told of a step and its data, where data take so long and the host never waits but
    for the forward pass."""
    device = Device()
    step, data = EventTimer(lambda: Event(device)), EventTimer(lambda: Event(device))
    told = []
    for _ in range(count):
        step.reset()
        data.reset()
        device.now += load
        waited = data.seconds()
        device.work(forward)
        device.wait()  # for the flag that the losses are finite
        device.work(backward)
        told.append((step.seconds(), waited))
    return told


@pytest.mark.parametrize(
    ("load", "waited"),
    # Data that take less than the backward pass cost nothing, others what they take longer.
    [(1.0, 0.0), (4.0, 0.0), (6.0, 2.0)],
)
def test_the_device_waits_for_what_it_waits(load, waited):
    told = steps(load)
    assert told[2:] == [(pytest.approx(7.0 + waited), pytest.approx(waited))] * 3


def test_until_something_is_known_it_is_the_hosts(monkeypatch):
    device = Device()
    timer = EventTimer(lambda: Event(device))
    device.work(1e9)
    timer.reset()
    time.sleep(0.02)
    assert 0.02 <= timer.seconds() < 10
    for _ in range(50):  # a device that never comes to an end fills no memory
        timer.seconds()
    assert len(timer._pending) <= 8


def test_the_cpu_has_the_hosts_clock():
    assert type(timer_of(torch.device("cpu"))) is Timer
    assert type(StepTimer(torch.device("cpu"))._step_timer) is Timer
