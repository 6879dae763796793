"""How fast this machine is: seconds of a call, operations a second, bytes read a second."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch
from torch.nn import functional

#: Bytes read to measure a memory's rate: more than caches hold.
_READ_BYTES = 256 << 20
#: Side of the matrices whose product's rate is measured: a CPU core is busy with the first, a GPU with the second.
_CPU_SIDE, _GPU_SIDE = 1024, 4096
#: How often that product is timed.
_PRODUCTS = 7


def seconds(call: Callable[[], Any], *, budget_s: float, most: int = 5) -> float:
    """Return the median time of a call that was made before, repeated while ``budget_s`` lasts, once at least."""
    taken: list[float] = []
    while not taken or (len(taken) < most and sum(taken) + taken[-1] <= budget_s):
        started = time.perf_counter()
        call()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - started)
    return float(np.median(taken))


@cache
def flop_rate(dtype: torch.dtype, device: torch.device) -> float:
    """Return the most floating-point operations a second that a product of matrices does here; takes about 0.2 s.

    It is the peak that all shares of one are told of. It is measured once a process, as a layer computes it (the
    weight transposed), and the fastest of some counts: what slows one down is not the device.
    """
    side = _CPU_SIDE if device.type == "cpu" else _GPU_SIDE
    # Not of the global generator: what is drawn after this must not depend on it.
    drawn = torch.randn(2, side, side, generator=torch.Generator().manual_seed(0))
    inputs, weight = drawn.to(device, dtype)
    taken: list[float] = []
    with torch.autocast(device.type, enabled=False), torch.no_grad():
        functional.linear(inputs, weight)
        for _ in range(_PRODUCTS):
            _wait(device)
            started = time.perf_counter()
            functional.linear(inputs, weight)
            _wait(device)
            taken.append(time.perf_counter() - started)
    return 2.0 * side**3 / min(taken)


def read_rate(device: torch.device) -> float:
    """Return about how many bytes a second a pass over memory reads here; takes about 0.3 s and 256 MiB."""
    numbers = torch.ones(_READ_BYTES // 4, device=device)
    _ = numbers.sum()
    return _READ_BYTES / seconds(numbers.sum, budget_s=0.15)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
