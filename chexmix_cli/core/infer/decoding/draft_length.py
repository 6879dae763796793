"""How many draft tokens a pass reads: as many as give most tokens for its time.

What a pass over more positions costs depends on the weights' form and on the CPU: in 8 bits one over nine takes 1.4
times as long as one over a single position, or 2.1 times where one over three costs nothing more. So passes are
measured, once for each decoder, form and kind of CPU, and remembered in ``CHEXMIX_HOME``. How many drafts are accepted
is counted within a call. Both on purpose: sums round by the shape of a pass, so a batch that is decoded again on the
same machine should have the same passes.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from chexmix_cli import __version__
from chexmix_cli.core.models.decoder import Decoder
from chexmix_cli.core.runtime import has_cpu_bfloat16, has_cpu_int8
from chexmix_cli.core.weights.files import Remembered

_LOG = logging.getLogger("chexmix")
_COSTS = Remembered("pass_costs.json", most=100)
#: Positions of the passes that are measured, behind so many others.
_SIZES, _BEHIND = (1, 2, 3, 4, 6, 8, 16, 32), 256
#: Passes of each size, as long as all together take no longer than this; once each in any case.
_ROUNDS, _BUDGET_S = 3, 0.2
#: Accepted and rejected draft tokens that are assumed before any was seen.
_ACCEPTED, _REJECTED = 3.0, 1.0
#: What was seen counts so much less with every pass. Without drafts nothing is seen, and they are tried again.
_FADING = 0.95


class PassCosts:
    """Seconds of a pass of a decoder, by the positions that it reads.

    Args:
        seconds: of passes over some numbers of positions; between them it is interpolated, beyond them constant. More
            positions never count as cheaper.
    """

    def __init__(self, seconds: Mapping[int, float]) -> None:
        self._positions = sorted(seconds)
        self._seconds = np.maximum.accumulate([seconds[num] for num in self._positions])

    def of(self, num_positions: ArrayLike) -> NDArray[np.float64]:
        """Return what passes over so many positions, all rows together, take."""
        return np.asarray(np.interp(np.asarray(num_positions, np.float64), self._positions, self._seconds))


class DraftLength:
    """How many draft tokens each row of a pass gets, while one batch is decoded.

    Args:
        most_positions: of a pass, all rows together.
        costs: of passes; None: as many draft tokens as fit.
    """

    def __init__(self, most_positions: int, costs: PassCosts | None = None) -> None:
        self._most, self._costs = most_positions, costs
        self._accepted = self._rejected = 0.0

    def note(self, num_drafted: int, num_accepted: int) -> None:
        """Take note of what became of a row's draft tokens in a pass: behind the first rejected one all are void."""
        self._accepted = self._accepted * _FADING + num_accepted
        self._rejected = self._rejected * _FADING + (num_accepted < num_drafted)

    def best(self, num_rows: int) -> int:
        """Return the number of draft tokens a row; none, or less, where no pass pays off that reads any."""
        most = self._most // num_rows - 1
        costs = self._costs
        if costs is None or most < 1:
            return most
        accepted, rejected = self._accepted + _ACCEPTED, self._rejected + _REJECTED
        share = accepted / (accepted + rejected)
        # A row gains its next token, and a draft token if all before it are accepted as well.
        gain = np.cumsum(share ** np.arange(most + 1))
        return int(np.argmax(gain / costs.of(num_rows * np.arange(1, most + 2))))


def pass_costs(decoder: Decoder) -> PassCosts:
    """Return what passes of a decoder on the CPU cost, as they were measured the first time on such a machine.

    Measuring takes about a quarter of a second, or a pass of each size where those take longer.
    """
    key = _key(decoder)
    seconds = _read(_COSTS.get(key))
    if seconds is None:
        measured = measured_seconds(decoder)
        # Of processes that measured at the same time the first counts for all.
        seconds = _read(_COSTS.get(key)) or measured
        if seconds is measured:
            _COSTS.put(key, seconds)
        shown = ", ".join(f"{num}: {taken / seconds[1]:.2f}" for num, taken in seconds.items())
        _LOG.info("passes measured for drafts, in times of one position: %s", shown)
    return PassCosts(seconds)


@torch.inference_mode()
def measured_seconds(decoder: Decoder) -> dict[int, float]:
    """Return the least seconds of passes over some numbers of positions, the logits behind each included."""
    limit = decoder.settings.max_positions
    behind = min(_BEHIND, limit // 2)
    sizes = [num for num in _SIZES if behind + num <= limit]
    cache = decoder.new_cache(1, behind + sizes[-1])
    # Numbers that a pass could not have left there may take longer.
    cache.keys_LBNSH.zero_()
    cache.values_LBNSH.zero_()

    def taken_s(num_positions: int) -> float:
        cache.length = behind
        started = time.perf_counter()
        decoder.logits(decoder(torch.zeros(1, num_positions, dtype=torch.int64), cache=cache))
        return time.perf_counter() - started

    taken_s(sizes[-1])  # what is set up once
    seconds, spent_s = dict.fromkeys(sizes, math.inf), 0.0
    for _ in range(_ROUNDS):
        for num in sizes:
            one_s = taken_s(num)
            seconds[num], spent_s = min(seconds[num], one_s), spent_s + one_s
        if spent_s > _BUDGET_S:
            break
    return seconds


def _key(decoder: Decoder) -> str:
    """Return what costs depend on, as text."""
    return json.dumps(
        {
            "version": __version__,
            "torch": str(torch.__version__),
            "cpu": [torch.backends.cpu.get_cpu_capability(), has_cpu_bfloat16(), has_cpu_int8()],
            "threads": torch.get_num_threads(),
            "dtype": str(decoder.embedding.weight.dtype),
            "layers": sorted({type(getattr(owner, name)).__name__ for owner, name in decoder.linear_layers()}),
            "decoder": repr(decoder.settings),
        }
    )


def _read(known: Any) -> dict[int, float] | None:
    """Return remembered seconds, or None if there are none, or something else."""
    try:
        seconds = {int(num): float(taken) for num, taken in known.items()}
    except (AttributeError, TypeError, ValueError):
        return None
    is_whole = 1 in seconds and all(0 < taken < math.inf for taken in seconds.values())
    return seconds if is_whole else None
