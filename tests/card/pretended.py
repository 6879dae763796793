"""A CUDA device that computes on the CPU: real code on tensors that say ``cuda:N``, on a machine without a card.

Mixing devices raises, as on a card. Waits for the device, copies and launches are counted, each with the line of ours
that causes it. A CUDA graph is recorded and played back; a wait inside a recording raises, as does an op of ours that
is launched while another device is current, which is what Triton does. Nothing is said of a card's numbers, of its
streams or of NCCL.

Import this before torch, in a process of its own, with the library of ``guard_build.py`` in ``CHEXMIX_CARD_GUARD``.
"""

from __future__ import annotations

import collections
import contextlib
import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from loaded_guard import GUARD

# Its libraries come before torch's.
# isort: split
import torch
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map

aten = torch.ops.aten


class DeviceError(RuntimeError):
    """Tensors of two devices meet, or a kernel is launched on a device that is not current."""


class CaptureError(RuntimeError):
    """The host waits for the device while a graph is recorded."""


#: What happened since :func:`reset`: kind -> times, and (kind, line of ours) -> times.
COUNTS: collections.Counter[str] = collections.Counter()
SITES: collections.Counter[tuple[str, str]] = collections.Counter()
#: Our Triton ops, each with what computes the same on the CPU.
REFERENCES: dict[Any, Callable[..., Any]] = {}
#: Storages of pinned tensors, kept so that no other takes their address.
_PINNED: dict[int, torch.Tensor] = {}
_RECORDING: list[Recording] = []

#: Ops after which the host knows a size or a value, so that it must wait.
_WAITING = {
    aten.nonzero.default,
    aten.masked_select.default,
    aten.unique_dim.default,
    aten._unique2.default,
    aten.equal.default,
    aten.bincount.default,
    aten.repeat_interleave.Tensor,
    aten.is_nonzero.default,
}
#: Ops that launch nothing: other views of a tensor, and memory without content.
_FREE = {
    aten._reshape_alias.default,
    aten._unsafe_view.default,
    aten.alias.default,
    aten.as_strided.default,
    aten.detach.default,
    aten.diagonal.default,
    aten.empty.memory_format,
    aten.empty_like.default,
    aten.empty_strided.default,
    aten.expand.default,
    aten.lift_fresh.default,
    aten.new_empty.default,
    aten.permute.default,
    aten.select.int,
    aten.slice.Tensor,
    aten.split.Tensor,
    aten.split_with_sizes.default,
    aten.squeeze.dim,
    aten.squeeze.dims,
    aten.t.default,
    aten.transpose.int,
    aten.unbind.int,
    aten.unfold.default,
    aten.unsqueeze.default,
    aten.view.default,
    aten.view.dtype,
}
_INDEXING = ("aten.index.", "aten.index_put", "aten._index_put", "aten._unsafe_index")


def reset() -> None:
    """Count from nothing again, with device 0 current."""
    COUNTS.clear()
    SITES.clear()
    GUARD.set_current_device(0)


def note(kind: str) -> None:
    """Count something that a recording must not hold."""
    where = _site()
    # Weights and checkpoints are copied tensor by tensor, which is no matter of a pass or a step.
    kind = "file copies" if where.startswith(("core/weights/", "core/train/checkpoint.py")) else kind
    COUNTS[kind] += 1
    SITES[kind, where] += 1
    if _RECORDING:
        raise CaptureError(f"{kind} while a graph is recorded, at {where}")


def is_pinned(tensor: torch.Tensor) -> bool:
    """Return whether a CPU tensor lies in memory that :func:`pin` gave."""
    return tensor.untyped_storage().data_ptr() in _PINNED


def pin(tensor: torch.Tensor) -> torch.Tensor:
    """Return a copy of a CPU tensor in memory that counts as pinned."""
    if isinstance(tensor, Pretended):
        raise RuntimeError("cannot pin a tensor that is not on the CPU")
    pinned = tensor.clone()
    if pinned.numel():
        _PINNED[pinned.untyped_storage().data_ptr()] = pinned
    COUNTS["pinned buffers"] += 1
    return pinned


class Pretended(torch.Tensor):
    """A CPU tensor, ``inner``, that says it is on a CUDA device."""

    inner: torch.Tensor

    @staticmethod
    def __new__(cls: type[Pretended], inner: torch.Tensor, device: torch.device) -> Pretended:
        return torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined, no-any-return]
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=device,
            requires_grad=False,
        )

    def __init__(self, inner: torch.Tensor, device: torch.device) -> None:
        self.inner = inner

    def __repr__(self) -> str:  # type: ignore[override]
        return f"Pretended({self.inner}, {self.device})"

    def __format__(self, spec: str) -> str:
        return format(self.item(), spec) if self.dim() == 0 else repr(self)

    def tolist(self) -> Any:
        note("waits")
        return self.inner.tolist()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class Card(TorchDispatchMode):
    """While entered, tensors made for a CUDA device are pretended ones."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class Recording:
    """What a CUDA graph holds: the calls on one device, with the memory they read and write.

    ``missed`` counts calls on another device than the one that is recorded: they run at once and are in no graph.
    """

    def __init__(self, device: torch.device) -> None:
        self.device, self.missed = device, 0
        self._calls: list[tuple[Any, Any, Any, Any]] = []

    def __len__(self) -> int:
        return len(self._calls)

    def add(self, func: Any, args: Any, kwargs: Any, out: Any) -> None:
        """Take note of one call."""
        self._calls.append((func, args, kwargs, out))

    def replay(self) -> None:
        """Do the calls again, into the same memory."""
        for func, args, kwargs, out in self._calls:
            for old, new in zip(_tensors(out), _tensors(func(*args, **kwargs)), strict=True):
                if old is not new and old.untyped_storage().data_ptr() != new.untyped_storage().data_ptr():
                    old.copy_(new)


@contextlib.contextmanager
def recording() -> Iterator[Recording]:
    """Record what runs on the current device."""
    note("waits")
    made = Recording(torch.device("cuda", GUARD.current_device()))
    _RECORDING.append(made)
    try:
        yield made
    finally:
        _RECORDING.pop()


def on_card(device: Any) -> torch.device | None:
    """Return a device with its index, or None for none."""
    found = torch.device(device) if device is not None else None
    if found is not None and found.type == "cuda" and found.index is None:
        return torch.device("cuda", GUARD.current_device())
    return found


def _run(func: Any, args: Any, kwargs: Any) -> Any:
    if isinstance(func, torch._ops.OpOverload) and func.namespace == "aten" and func._can_decompose():
        with Card():
            result = func.decompose(*args, **kwargs)
        if result is not NotImplemented:
            return result
    tensors = _tensors((args, kwargs))
    ours = [tensor for tensor in tensors if isinstance(tensor, Pretended)]
    if func is aten._local_scalar_dense.default:
        if ours:
            note("waits")
        return func(*tree_map(_inner, args), **kwargs)
    if func is aten._to_copy.default:
        return _to_copy(func, args[0], kwargs)
    if func is aten.copy_.default:
        return _copy(func, args)
    if not ours:
        return _make(func, args, kwargs, tensors)
    return _compute(func, args, kwargs, _common_device(func, args, tensors, ours))


def _to_copy(func: Any, source: torch.Tensor, kwargs: Any) -> torch.Tensor:
    target = on_card(kwargs.get("device")) or source.device
    if target.type == "meta":  # shapes without numbers: nothing is copied
        return func(_inner(source), **kwargs)
    rest = {name: value for name, value in kwargs.items() if name not in ("device", "non_blocking", "pin_memory")}
    if target.type == "cpu":
        if isinstance(source, Pretended):
            note("waits")
        return func(_inner(source), **rest)
    if not isinstance(source, Pretended):
        note(_kind_of_copy(source, kwargs.get("non_blocking")))
        return Pretended(func(source, **rest), target)
    if source.device != target:
        note("copies between devices")
    _launch()
    return _recorded(Pretended(func(source.inner, **rest), target), func, (source.inner,), rest, target)


def _copy(func: Any, args: Any) -> torch.Tensor:
    target, source = args[0], args[1]
    is_wait = isinstance(source, Pretended) and not isinstance(target, Pretended)
    if isinstance(target, Pretended) and not isinstance(source, Pretended):
        note(_kind_of_copy(source, args[2] if len(args) > 2 else False))
    elif is_wait:
        note("waits")
    else:
        _launch()
    inner = (_inner(target), _inner(source), *args[2:])
    func(*inner)
    if isinstance(target, Pretended):
        _recorded(None, func, inner, {}, target.device)
    return target


def _make(func: Any, args: Any, kwargs: Any, tensors: list[torch.Tensor]) -> Any:
    """Run an op without a tensor of ours: a factory, if it asks for our device."""
    target = on_card(kwargs.get("device"))
    if target is None or target.type != "cuda":
        if not kwargs.get("pin_memory"):
            return func(*args, **kwargs)
        return pin(func(*args, **{**kwargs, "pin_memory": None}))
    if any(tensor.dim() > 0 for tensor in tensors):
        raise DeviceError(f"{func}: a tensor of the CPU for one of {target}, at {_site()}")
    rest = {**kwargs, "device": torch.device("cpu")}
    rest.pop("pin_memory", None)
    if func not in _FREE:
        _launch()
    out = func(*args, **rest)
    if func in (aten.empty.memory_format, aten.empty_strided.default) and out.is_floating_point():
        out.fill_(float("nan"))  # memory that nobody wrote shows
    return _recorded(_wrapped(out, target), func, args, rest, target)


def _common_device(func: Any, args: Any, tensors: list[torch.Tensor], ours: list[Pretended]) -> torch.device:
    devices = {tensor.device for tensor in ours}
    if len(devices) > 1:
        raise DeviceError(f"{func}: tensors of {devices}, at {_site()}")
    device = devices.pop()
    for tensor in tensors:
        if isinstance(tensor, Pretended) or tensor.dim() == 0:
            continue
        # An index may come from the CPU: torch copies it.
        if not (str(func).startswith(_INDEXING) and any(tensor is index for index in args[1] or ())):
            raise DeviceError(f"{func}: {tuple(tensor.shape)} of the CPU beside {device}, at {_site()}")
        note("pageable copies")
    if func.namespace == "chexmix" and GUARD.current_device() != device.index:
        raise DeviceError(f"{func}: launched on cuda:{GUARD.current_device()}, tensors of {device}, at {_site()}")
    return device


def _compute(func: Any, args: Any, kwargs: Any, device: torch.device) -> Any:
    is_mask = str(func).startswith(_INDEXING) and any(
        isinstance(index, torch.Tensor) and index.dtype in (torch.bool, torch.uint8) for index in args[1]
    )
    if func in _WAITING or is_mask:
        note("waits")
    inner, rest = tree_map(_inner, args), tree_map(_inner, kwargs)
    if rest.get("device") is not None:
        target = on_card(rest["device"])
        rest["device"] = torch.device("cpu")
        if target is not None and target.type == "cpu":
            return func(*inner, **rest)
        device = target or device
    if func not in _FREE:
        _launch()
    run = REFERENCES.get(func, func)
    out = run(*inner, **rest)
    wrapped = _recorded(_wrapped(out, device), run, inner, rest, device)
    return wrapped if func.namespace == "chexmix" else return_and_correct_aliasing(func, args, kwargs, wrapped)


def _recorded(out: Any, func: Any, args: Any, kwargs: Any, device: torch.device) -> Any:
    if _RECORDING:
        made = _RECORDING[-1]
        if device == made.device:
            made.add(func, args, kwargs, tree_map(_inner, out))
        else:
            made.missed += 1
    return out


def _kind_of_copy(source: torch.Tensor, non_blocking: bool | None) -> str:
    return "pinned copies" if non_blocking and is_pinned(source) else "pageable copies"


def _launch() -> None:
    COUNTS["launches"] += 1
    SITES["launches", _site()] += 1


def _inner(value: Any) -> Any:
    return value.inner if isinstance(value, Pretended) else value


def _wrapped(out: Any, device: torch.device) -> Any:
    return tree_map(lambda value: Pretended(value, device) if isinstance(value, torch.Tensor) else value, out)


def _tensors(tree: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


def _site() -> str:
    """Return the innermost line of the package that is running."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        _, is_ours, name = frame.f_code.co_filename.rpartition("/chexmix_cli/")
        if is_ours:
            return f"{name}:{frame.f_lineno}"
        frame = frame.f_back
    return "elsewhere"
