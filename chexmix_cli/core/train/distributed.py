"""Several processes as one run: joining them, and the few things that ranks tell each other.

torchrun (or any launcher that sets ``RANK``, ``WORLD_SIZE``, ``LOCAL_RANK``, ``MASTER_ADDR`` and ``MASTER_PORT``)
starts the processes. In a process that was started alone every function here is that of a world of one, and nothing
is communicated.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, distributed
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from chexmix_cli.core.errors import ChexmixError, ExitCode, MachineError, SettingsError
from chexmix_cli.core.runtime import choose_device
from chexmix_cli.core.settings.training import LoopSettings

_FAILED = "chexmix-failed"
#: As ``LoopSettings.timeout_minutes`` has it.
_TIMEOUT = timedelta(minutes=30)


class PeerError(MachineError):
    """Another process of the run failed first, and says why; ``code`` is this one's exit code."""

    def __init__(self, code: ExitCode) -> None:
        super().__init__("another process of the run failed", hint="its own message says why")
        self.code = code


@contextmanager
def joined(device: str, timeout: timedelta = _TIMEOUT) -> Iterator[torch.device]:
    """Join the run's other processes, if a launcher started this one, and give the device to train on.

    Args:
        device: ``auto``, ``cpu`` or ``cuda``; each process of a node takes the GPU of its local rank, or the one that
            its launcher lets it see. ``cuda:N`` is for a process that runs alone.
        timeout: how long a process waits for the others.

    Raises:
        SettingsError, MachineError: as :func:`runtime.choose_device`.
        PeerError: instead of any error, if another process met one first.
        MachineError: if another process does not come, ended without a word, or does not answer in time.
    """
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        yield choose_device(device)
        return
    store, rank, size = _meet(timeout)
    try:
        chosen = _device_of_rank(device)
        backend = "cpu:gloo" if chosen.type == "cpu" else "cpu:gloo,cuda:nccl"
        distributed.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=timeout)
        yield chosen
    except Exception as error:
        # Who comes first tells the user; an error that all share is told once.
        if _is_told(store):
            raise PeerError(error.exit_code if isinstance(error, ChexmixError) else ExitCode.FAILED) from error
        if _is_timeout(error):
            raise MachineError(
                f"another process of the run did not answer for {timeout}",
                hint="one of them hangs, or works longer than train.timeout_minutes; --resume continues the run",
            ) from error
        if _is_lost_connection(error):
            raise MachineError(
                "another process of the run ended without a word",
                hint="the kernel's log says whether memory ran out; --resume continues from the last checkpoint",
            ) from error
        raise
    # Not after an error: with ranks that are gone, taking the group down may wait for them.
    distributed.destroy_process_group()


def _meet(timeout: timedelta) -> tuple[Store, int, int]:
    """Return the store that the processes share, this one's number and how many there are."""
    place = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
    try:
        store, rank, size = next(rendezvous("env://", timeout=timeout))
    except (distributed.DistError, RuntimeError, ValueError) as error:
        raise MachineError(
            f"the other processes of the run cannot be met ({type(error).__name__})",
            where=f"MASTER_ADDR and MASTER_PORT, {place}",
            expected="rank 0 to listen there, and all processes to start within train.timeout_minutes",
        ) from error
    # A launcher that restarts processes may keep the store: what an earlier attempt left there is not ours.
    return PrefixStore(f"attempt-{_attempt()}", store), rank, size


def _attempt() -> str:
    """Return which start of the run this is, by torchrun's count of restarts or Slurm's; 0 with another launcher."""
    return os.environ.get("TORCHELASTIC_RESTART_COUNT") or os.environ.get("SLURM_RESTART_COUNT") or "0"


def _is_told(store: Store) -> bool:
    """Return whether another process has failed before; where rank 0 took the store away with it, nobody says."""
    try:
        return int(store.add(_FAILED, 1)) > 1
    except (distributed.DistError, RuntimeError):
        return False


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


def share(count: int) -> range:
    """Return the numbers of this rank's part of ``count`` micro-batches: the ``rank``-th run of them.

    Raises:
        SettingsError: if they cannot be shared evenly.
    """
    require_even_shares(count)
    size = count // world_size()
    return range(rank() * size, (rank() + 1) * size)


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
    # A launcher that shows each task one card of its own (Slurm with --gpus-per-task) numbers that one 0.
    has_own = "CUDA_VISIBLE_DEVICES" in os.environ and torch.cuda.device_count() == 1
    return choose_device(f"cuda:{local_rank}") if chosen.type == "cuda" and not has_own else chosen


def _is_timeout(error: Exception) -> bool:
    # gloo says "Timed out waiting", the store "wait timeout" or, as a DistStoreError, how long it waited.
    is_ours = isinstance(error, (RuntimeError, distributed.DistError))
    return is_ours and any(words in str(error).lower() for words in ("timed out", "timeout"))


def _is_lost_connection(error: Exception) -> bool:
    # gloo has no exception type of its own.
    is_gloo = type(error) is RuntimeError and ("gloo" in str(error) or "Connection closed by peer" in str(error))
    return is_gloo or isinstance(error, distributed.DistError)
