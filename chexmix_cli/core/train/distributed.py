"""Several processes as one run: joining them, and the few things that ranks tell each other.

torchrun (or any launcher that sets ``RANK``, ``WORLD_SIZE``, ``LOCAL_RANK``, ``MASTER_ADDR`` and ``MASTER_PORT``)
starts the processes. In a process that was started alone every function here is that of a world of one, and nothing
is communicated.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed
from torch.distributed.rendezvous import rendezvous

from chexmix_cli.core.errors import ChexmixError, ExitCode, MachineError, SettingsError
from chexmix_cli.core.runtime import choose_device
from chexmix_cli.core.settings.training import LoopSettings

Item = TypeVar("Item")

_FAILED = "chexmix-failed"


class PeerError(MachineError):
    """Another process of the run failed first, and says why; ``code`` is this one's exit code."""

    def __init__(self, code: ExitCode) -> None:
        super().__init__("another process of the run failed", hint="its own message says why")
        self.code = code


@contextmanager
def joined(device: str) -> Iterator[torch.device]:
    """Join the run's other processes, if a launcher started this one, and give the device to train on.

    Args:
        device: ``auto``, ``cpu`` or ``cuda``; each process of a node takes the GPU of its local rank. ``cuda:N`` is
            for a process that runs alone.

    Raises:
        SettingsError, MachineError: as :func:`runtime.choose_device`.
        PeerError: instead of any error, if another process met one first.
        MachineError: if another process ended without a word.
    """
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        yield choose_device(device)
        return
    store, rank, size = next(rendezvous("env://"))
    try:
        chosen = _device_of_rank(device)
        backend = "cpu:gloo" if chosen.type == "cpu" else "cpu:gloo,cuda:nccl"
        distributed.init_process_group(backend, store=store, rank=rank, world_size=size)
        yield chosen
    except Exception as error:
        # Who comes first tells the user; an error that all share is told once.
        if int(store.add(_FAILED, 1)) > 1:
            raise PeerError(error.exit_code if isinstance(error, ChexmixError) else ExitCode.FAILED) from error
        if _is_lost_connection(error):
            raise MachineError(
                "another process of the run ended without a word",
                hint="the kernel's log says whether memory ran out; --resume continues from the last checkpoint",
            ) from error
        raise
    # Not after an error: with ranks that are gone, taking the group down may wait for them.
    distributed.destroy_process_group()


def rank() -> int:
    """Return this process's number, from 0."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def world_size() -> int:
    """Return the number of processes."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def is_main() -> bool:
    """Return whether this process is the one that writes and reports."""
    return rank() == 0


def barrier() -> None:
    """Wait until every rank is here."""
    if world_size() > 1:
        distributed.barrier()


def share(items: Sequence[Item]) -> list[tuple[int, Item]]:
    """Return this rank's part of the micro-batches, each with its index in the whole: the ``rank``-th run of them.

    Raises:
        SettingsError: if they cannot be shared evenly.
    """
    require_even_shares(len(items))
    size = len(items) // world_size()
    first = rank() * size
    return list(enumerate(items))[first : first + size]


def require_even_shares(num_micro_batches: int) -> None:
    """Raise SettingsError unless every process gets the same number of a step's micro-batches."""
    if num_micro_batches % world_size():
        raise SettingsError(
            f"a step has {num_micro_batches} micro-batches for {world_size()} processes",
            where="train.batch_size",
            expected="batch_size / micro_batch_size to be a multiple of the number of processes",
            hint="lower train.micro_batch_size, or change train.batch_size or --nproc-per-node",
        )


def require_fitting_batch(train: LoopSettings) -> None:
    """Raise SettingsError unless a step's examples can be shared evenly; known before any data is read."""
    require_even_shares(train.batch_size // train.micro_batch_size)


def sum_over_ranks(values: Tensor) -> Tensor:
    """Return the sum over all ranks of a tensor of the same shape on each; ``values`` itself stays."""
    if world_size() == 1:
        return values
    total = values.clone()
    distributed.all_reduce(total)
    return total


def is_any(flag: bool) -> bool:
    """Return whether the flag is up on any rank."""
    return bool(sum_over_ranks(torch.tensor(int(flag))))


def tensor_from_main(values: Tensor) -> Tensor:
    """Return rank 0's tensor on every rank, of the shape it has on each; ``values`` itself stays."""
    if world_size() == 1:
        return values
    sent = values.clone()
    distributed.broadcast(sent, src=0)
    return sent


def from_main(value: Any) -> Any:
    """Return rank 0's value on every rank."""
    if world_size() == 1:
        return value
    values = [value]
    distributed.broadcast_object_list(values, src=0)
    return values[0]


def from_all(value: Any) -> list[Any]:
    """Return every rank's value, in the order of ranks."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    distributed.all_gather_object(values, value)
    return values


def _device_of_rank(name: str) -> torch.device:
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    if ":" in name:
        raise SettingsError(f"is {name!r}", where="--device", expected="auto, cpu or cuda: each process takes its own")
    chosen = choose_device(name)
    if chosen.type == "cuda":
        chosen = choose_device(f"cuda:{local_rank}")
        torch.cuda.set_device(chosen)
    return chosen


def _is_lost_connection(error: Exception) -> bool:
    # gloo has no exception type of its own.
    is_gloo = type(error) is RuntimeError and ("gloo" in str(error) or "Connection closed by peer" in str(error))
    return is_gloo or isinstance(error, distributed.DistError)
