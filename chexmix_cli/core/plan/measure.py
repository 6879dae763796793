"""What plans are made of: memory counted tensor by tensor, figures carried from small sizes to large ones, a verdict.

A plan runs the real code on a model that is cut down in some *sizes* (layers, vocabulary rows, pixels), at two values
of each, and carries what it measured over to the full size: every quantity of one pass is linear in each of them.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of all tensors alive at once while the block runs, by their storages.

    What an operator uses inside and gives back before it returns is not seen.

    Args:
        known: modules whose parameters and buffers exist already; they are not counted.

    Attributes:
        now, peak: bytes at this moment, and at most since :meth:`restart`.
    """

    def __init__(self, *known: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self._alive: dict[int, int] = {}
        self._known = {
            tensor.untyped_storage()._cdata for module in known for tensor in (*module.parameters(), *module.buffers())
        }

    def restart(self) -> None:
        """Forget the peak so far."""
        self.peak = self.now

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(tensor, Tensor):
                self._add(tensor.untyped_storage())
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self._alive or key in self._known:
            return
        self._alive[key] = storage.nbytes()
        self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._drop, key)

    def _drop(self, key: int) -> None:
        self.now -= self._alive.pop(key)


class Parts:
    """Counts the measurements of a plan, as far as they are known to come.

    Args:
        show: called with (done, in all).
    """

    def __init__(self, show: Callable[[int, int | None], None]) -> None:
        self._show, self._done, self._total = show, 0, 0

    def expect(self, count: int) -> None:
        """Add so many to those that are to come."""
        self._total += count
        self._show(self._done, self._total)

    def finish(self) -> None:
        """Count one as done."""
        self._done += 1
        self._show(self._done, self._total)


@dataclass(frozen=True, slots=True)
class Point:
    """What was measured at one size.

    Attributes:
        sizes: name of a size -> its value here, for example ``{"layers": 2, "rows": 4096}``.
        values: quantity -> bytes or seconds.
    """

    sizes: Mapping[str, float]
    values: Mapping[str, float]


def extrapolate(points: Sequence[Point], target: Mapping[str, float]) -> dict[str, float]:
    """Return every quantity at ``target``: constant plus a share for each size, by least squares, never negative.

    Args:
        points: at least one more than sizes that differ among them; a size that does not differ must be the target's.
        target: the sizes asked for.
    """
    varied = [name for name in target if len({point.sizes[name] for point in points}) > 1]
    fixed = [name for name in target if name not in varied]
    assert all(point.sizes[name] == target[name] for point in points for name in fixed), "a size that cannot be reached"
    design = np.array([[1.0, *(point.sizes[name] for name in varied)] for point in points])
    wanted = np.array([1.0, *(target[name] for name in varied)])
    result = {}
    for quantity in points[0].values:
        measured = np.array([point.values[quantity] for point in points])
        shares, *_ = np.linalg.lstsq(design, measured, rcond=None)
        # Noise can turn a share that is next to nothing negative; carried far, it would eat up the others.
        shares[1:] = shares[1:].clip(min=0)
        result[quantity] = max(0.0, float(wanted @ shares))
    return result


@dataclass(frozen=True, slots=True)
class Remedy:
    """A change that needs less memory.

    Attributes:
        what: the settings or command.
        peak_bytes: with it.
    """

    what: str
    peak_bytes: int


class Need:
    """Memory that is needed, part by part, beside what there is: ``memory`` and ``available_bytes`` of a dataclass."""

    __slots__ = ()

    if TYPE_CHECKING:

        @property
        def memory(self) -> Mapping[str, int]: ...
        @property
        def available_bytes(self) -> int: ...

    @property
    def peak_bytes(self) -> int:
        """Return the most memory that is held at once."""
        return sum(self.memory.values())

    @property
    def fits(self) -> bool:
        """Return whether that is there."""
        return self.peak_bytes <= self.available_bytes


@dataclass(frozen=True, slots=True)
class Plan(Need):
    """Whether a command will fit, and how long it will take.

    Attributes:
        command: what was planned.
        memory: part -> bytes; together the peak.
        available_bytes: what the machine, or ``--memory``, has for it.
        times: what -> seconds.
        sizes: figures that the plan rests on: parameters, tokens a step, ...
        remedies: what would make it fit, where it does not.
        remarks: what the plan leaves out or assumes.
    """

    command: str
    memory: Mapping[str, int]
    available_bytes: int
    times: Mapping[str, float]
    sizes: Mapping[str, int]
    remedies: Sequence[Remedy] = ()
    remarks: Sequence[str] = field(default_factory=tuple)

    def record(self) -> dict[str, Any]:
        """Return the plan as plain values, bytes and seconds."""
        return {
            "command": self.command,
            "fits": self.fits,
            "peak_bytes": self.peak_bytes,
            "available_bytes": self.available_bytes,
            "short_bytes": max(0, self.peak_bytes - self.available_bytes),
            "memory_bytes": dict(self.memory),
            "seconds": {name: round(value, 4) for name, value in self.times.items()},
            "sizes": dict(self.sizes),
            "remedies": [
                {
                    "what": remedy.what,
                    "peak_bytes": remedy.peak_bytes,
                    "fits": remedy.peak_bytes <= self.available_bytes,
                }
                for remedy in self.remedies
            ],
            "remarks": list(self.remarks),
        }


def module_bytes(module: nn.Module) -> tuple[int, int]:
    """Return the bytes of all parameters and buffers, and of those parameters that are trained."""
    tensors = [*module.parameters(), *module.buffers()]
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    return tuple(sum(tensor.numel() * tensor.element_size() for tensor in group) for group in (tensors, trained))  # type: ignore[return-value]
