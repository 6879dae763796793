"""What of working on a cluster can be seen without one."""

from __future__ import annotations

import pickle
import sys

import pytest

from chexmix_cli.core.errors import DataError, MachineError, Reason
from chexmix_cli.core.settings.inference import RaySettings
from chexmix_cli.library.jobs import cluster
from chexmix_cli.library.jobs.batches import run_batches
from chexmix_cli.library.jobs.job import Job, raiser


@pytest.mark.parametrize(("batch_size", "group"), [(3, 0), (3, 4), (4, 4), (2, 7)])
def test_batches_are_cut_as_one_process_cuts_them(batch_size, group):
    def jobs():
        for number in range(23):
            prepare = raiser(DataError(Reason.CORRUPT, "damaged")) if number % 5 == 3 else lambda number=number: number
            yield Job(str(number), prepare)

    seen: list[list[int]] = []

    def process(numbers):
        seen.append(numbers)
        return numbers

    here = [result for _, result in run_batches(jobs(), process, batch_size=batch_size, group=group)]
    batches, there = seen, []
    seen = []
    for batch in cluster._cut(jobs(), batch_size, group):
        there += [result for _, result in run_batches(iter(batch), process, batch_size=len(batch))]
    assert [str(result) for result in there] == [str(result) for result in here]
    assert seen == batches


class Opened:
    """Adds one."""

    def __init__(self, device):
        self.device = device

    def process(self, numbers):
        return [number + 1 for number in numbers]

    def facts(self):
        return {"version": "1", "device": self.device}


def test_a_process_opens_its_work_once_and_refuses_other_facts():
    packed = pickle.dumps((Opened, {"version": "1"}, 1))
    assert cluster._opened(packed, None) is cluster._opened(packed, None)
    assert cluster._opened(packed, "cuda:1").device == "cuda:1"
    other = pickle.dumps((Opened, {"version": "2"}, 1))
    with pytest.raises(MachineError, match=r"--ray: a machine has version '1'; expected '2'"):
        cluster._opened(other, None)


def test_room_follows_the_machines_and_is_never_none(monkeypatch):
    slots = iter([0, 3])
    now = [0.0]
    monkeypatch.setattr(cluster.time, "monotonic", lambda: now[0])
    room = cluster._Room(lambda: next(slots))
    assert [room.size(), room.size()] == [4, 4]
    now[0] = 10.0
    assert room.size() == 12


def test_without_the_package_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    jobs = iter([Job("a", int)])
    with pytest.raises(MachineError, match="needs the package ray") as caught:
        list(cluster.Cluster("auto", RaySettings()).batches(jobs, Opened, {}, batch_size=1))
    assert "chexmix[ray]" in caught.value.hint


def test_an_address_where_nobody_listens_is_told_at_once():
    import socket

    with socket.socket() as bound:  # and not listening
        bound.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{bound.getsockname()[1]}"
        with pytest.raises(ConnectionRefusedError):
            cluster._knock(address)
        bound.listen()
        cluster._knock(address)
    cluster._knock("auto")
