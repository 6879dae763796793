"""How a process joins the others, and how all of them end. A world of one is enough for that."""

from __future__ import annotations

import socket
from datetime import timedelta

import pytest
import torch
from torch import distributed

from chexmix_cli.core.errors import ExitCode, MachineError, SettingsError, TrainingError
from chexmix_cli.core.train import distributed as ours


@pytest.fixture
def launched(monkeypatch):
    """Set what a launcher sets; take the group down whatever happens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    values = {"RANK": 0, "WORLD_SIZE": 1, "LOCAL_RANK": 0, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    for name, value in values.items():
        monkeypatch.setenv(name, str(value))
    yield
    if distributed.is_initialized():
        distributed.destroy_process_group()


def fail(error, timeout=timedelta(minutes=30)):
    with ours.joined("cpu", timeout):
        raise error


def test_alone_nothing_is_joined(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    with ours.joined("cpu") as device:
        assert device == torch.device("cpu")
        assert not distributed.is_initialized()
        assert (ours.rank(), ours.world_size(), ours.is_main()) == (0, 1, True)
        assert ours.share(2) == range(2)
        assert (ours.from_main(3), ours.from_all(3), ours.is_any(True)) == (3, [3], True)


def test_a_launched_process_joins_and_leaves(launched):
    with ours.joined("cpu"):
        assert distributed.is_initialized()
    assert not distributed.is_initialized()


def test_who_fails_first_tells(launched):
    with pytest.raises(TrainingError, match="bad data"):
        fail(TrainingError("bad data"))


def test_who_fails_later_ends_with_its_code_and_leaves_the_word_to_the_first(launched, monkeypatch):
    init = distributed.init_process_group

    def another_failed_before(*arguments, store, **more):
        store.add("chexmix-failed", 1)
        init(*arguments, store=store, **more)

    monkeypatch.setattr(distributed, "init_process_group", another_failed_before)
    with pytest.raises(ours.PeerError, match="another process of the run failed") as stop:
        fail(SettingsError("bad settings"))
    assert stop.value.code == ExitCode.USAGE


def test_a_process_that_is_gone_is_no_bug_of_ours(launched):
    with pytest.raises(MachineError, match="another process of the run ended without a word"):
        fail(RuntimeError("[.../gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:4"))


def test_a_process_that_does_not_answer_in_time_is_said_so(launched):
    message = "[.../gloo/transport/tcp/unbound_buffer.cc:81] Timed out waiting 60000ms for recv operation to complete"
    with pytest.raises(MachineError, match="another process of the run did not answer for 0:01:00") as stop:
        fail(RuntimeError(message), timedelta(minutes=1))
    assert "train.timeout_minutes" in stop.value.hint


def test_who_is_left_without_a_store_still_says_what_happened(launched, monkeypatch):
    """Rank 0 keeps the store where no launcher does: when it is gone, so is the word of who failed first."""

    def gone(store, *arguments):
        raise distributed.DistNetworkError("failed to recv, got 0 bytes")

    monkeypatch.setattr(distributed.PrefixStore, "add", gone)
    with pytest.raises(MachineError, match="another process of the run ended without a word"):
        fail(distributed.DistBackendError("Connection closed by peer"))


def test_what_an_attempt_before_left_in_the_store_is_not_read(launched, monkeypatch):
    """An agent keeps its store when it starts the processes again: their failure must not be that of the next ones."""
    store = distributed.HashStore()
    monkeypatch.setattr(ours, "rendezvous", lambda *arguments, **more: iter([(store, 0, 1)]))
    for attempt in range(2):
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", str(attempt))
        with pytest.raises(TrainingError, match="bad data"):
            fail(TrainingError("bad data"))
        distributed.destroy_process_group()
    with pytest.raises(ours.PeerError):
        fail(TrainingError("bad data"))


def test_processes_that_cannot_be_met_are_named_with_their_place(launched, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(MachineError, match=r"MASTER_ADDR and MASTER_PORT, 127\.0\.0\.1.*cannot be met"):
        fail(TrainingError("never raised"), timedelta(seconds=1))


@pytest.mark.parametrize(("count", "visible", "index"), [(4, None, 3), (4, "0,1,2,3", 3), (1, "3", 0)])
def test_a_process_takes_its_card_or_the_one_that_it_sees(monkeypatch, count, visible, index):
    """Slurm shows each task its own card, which is number 0 to it, whatever its local rank."""
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setenv("LOCAL_RANK", "3")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    before = torch.backends.cudnn.allow_tf32
    assert ours._device_of_rank("auto") == torch.device("cuda", index)
    torch.backends.cudnn.allow_tf32 = before


def test_a_second_process_on_one_visible_machine_is_refused(monkeypatch):
    """Two processes and one card that nobody gave to each: they would share it unasked."""
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    before = torch.backends.cudnn.allow_tf32
    with pytest.raises(MachineError, match="there are 1 CUDA devices"):
        ours._device_of_rank("cuda")
    torch.backends.cudnn.allow_tf32 = before


def test_a_bug_of_ours_stays_one(launched):
    with pytest.raises(RuntimeError, match="shapes"):
        fail(RuntimeError("shapes"))


def test_a_process_of_several_takes_no_gpu_by_number(launched):
    with pytest.raises(SettingsError, match="--device: is 'cuda:1'; expected auto, cpu or cuda"), ours.joined("cuda:1"):
        pass


def test_micro_batches_must_be_shared_evenly(monkeypatch):
    monkeypatch.setattr(ours, "world_size", lambda: 2)
    with pytest.raises(SettingsError, match="a step has 3 micro-batches for 2 processes") as stop:
        ours.share(3)
    assert "lower train.micro_batch_size" in stop.value.hint
    monkeypatch.setattr(ours, "rank", lambda: 1)
    assert ours.share(4) == range(2, 4)
