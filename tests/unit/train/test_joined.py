"""How a process joins the others, and how all of them end. A world of one is enough for that."""

from __future__ import annotations

import socket

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


def fail(error):
    with ours.joined("cpu"):
        raise error


def test_alone_nothing_is_joined(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    with ours.joined("cpu") as device:
        assert device == torch.device("cpu")
        assert not distributed.is_initialized()
        assert (ours.rank(), ours.world_size(), ours.is_main()) == (0, 1, True)
        assert ours.share([7, 8]) == [(0, 7), (1, 8)]
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


def test_a_bug_of_ours_stays_one(launched):
    with pytest.raises(RuntimeError, match="shapes"):
        fail(RuntimeError("shapes"))


def test_a_process_of_several_takes_no_gpu_by_number(launched):
    with pytest.raises(SettingsError, match="--device: is 'cuda:1'; expected auto, cpu or cuda"), ours.joined("cuda:1"):
        pass


def test_micro_batches_must_be_shared_evenly(monkeypatch):
    monkeypatch.setattr(ours, "world_size", lambda: 2)
    with pytest.raises(SettingsError, match="a step has 3 micro-batches for 2 processes") as stop:
        ours.share([1, 2, 3])
    assert "lower train.micro_batch_size" in stop.value.hint
    monkeypatch.setattr(ours, "rank", lambda: 1)
    assert ours.share("abcd") == [(2, "c"), (3, "d")]
