"""How fast this machine is: seconds of a call, operations a second, bytes read a second."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

#: Bytes read to measure a memory's rate: more than caches hold.
_READ_BYTES = 256 << 20
#: Side of the matrices whose product's rate is measured.
_SIDE = 512


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


def flop_rate(dtype: torch.dtype, device: torch.device) -> float:
    """Return about how many floating-point operations a second a matrix product does here."""
    left, right = torch.randn(2, _SIDE, _SIDE).to(device, dtype)
    _ = left @ right
    return 2.0 * _SIDE**3 / seconds(lambda: left @ right, budget_s=0.3)


def read_rate(device: torch.device) -> float:
    """Return about how many bytes a second a pass over memory reads here; takes about 0.3 s and 256 MiB."""
    numbers = torch.ones(_READ_BYTES // 4, device=device)
    _ = numbers.sum()
    return _READ_BYTES / seconds(numbers.sum, budget_s=0.15)
