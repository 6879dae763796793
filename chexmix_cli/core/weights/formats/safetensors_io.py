"""Tensors in and out of safetensors files: strict loading onto a module, streamed atomic writing.

Loading allocates each parameter once, in its final dtype and place, and copies the checkpoint's slices into it from a
memory map that is let go of after every parameter; so the peak is the weights themselves and one tensor's pages.
Writing takes one tensor at a time, too.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from chexmix_cli.core.errors import WeightsError
from chexmix_cli.core.files import atomic_write
from chexmix_cli.core.weights.formats.header import DTYPE_BYTES, FLOAT_DTYPES, Header, read_header
from chexmix_cli.core.weights.formats.keys import Slice, joined_shape
from chexmix_cli.core.weights.formats.wrappers import explain

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    Module = TypeVar("Module", bound=nn.Module)

#: Share of a tensor's numbers, and of its norm, that a change of dtype may lose.
_MOST_LOST = 0.01
#: Most keys of one kind that an error names.
_NAMED_KEYS = 6


class TensorSource(Protocol):
    """Tensors by checkpoint key."""

    where: str
    shapes: Mapping[str, tuple[int, ...]]
    dtypes: Mapping[str, str]

    def get(self, key: str) -> Tensor:
        """Return one tensor, possibly a view of a memory map; not to be changed."""

    def release(self) -> None:
        """Let go of what was mapped; tensors handed out are no longer used."""


class SafetensorsSource:
    """A safetensors file as a :class:`TensorSource`."""

    def __init__(self, path: Path, header: Header | None = None) -> None:
        self.header = header or read_header(path)
        self.where = str(path)
        self.shapes: Mapping[str, tuple[int, ...]] = self.header.shapes
        self.dtypes: Mapping[str, str] = {key: info.dtype for key, info in self.header.tensors.items()}
        self._path = path
        self._file: Any = None

    def get(self, key: str) -> Tensor:
        """Return one tensor, a view of the mapped file."""
        from safetensors import SafetensorError, safe_open

        try:
            if self._file is None:
                self._file = safe_open(self._path, framework="pt")
            tensor: Tensor = self._file.get_tensor(key)
        except (SafetensorError, OSError) as error:
            raise WeightsError(f"cannot be read ({error})", where=self.where) from None
        return tensor

    def release(self) -> None:
        """Unmap the file; it is mapped again when needed."""
        self._file = None


def check_keys(slices: Iterable[Slice], source: TensorSource) -> list[str]:
    """Return what is wrong with a source's keys, a line for each kind: missing, unexpected, misshapen, no floats.

    A last line says what the names stand for, where they tell.
    """
    wanted = {item.key: item.shape for item in slices}
    missing = [key for key in wanted if key not in source.shapes]
    unexpected = [key for key in source.shapes if key not in wanted]
    both = [key for key in wanted if key in source.shapes]
    misshapen = [
        f"{key} is {_show(source.shapes[key])}, not {_show(wanted[key])}"
        for key in both
        if source.shapes[key] != wanted[key]
    ]
    no_floats = [f"{key} is {source.dtypes[key]}" for key in both if source.dtypes[key] not in FLOAT_DTYPES]
    kinds = (
        ("missing", missing),
        ("unexpected", unexpected),
        ("misshapen", misshapen),
        ("not floating point", no_floats),
    )
    problems = [f"{len(keys)} {kind}: {_bounded(keys)}" for kind, keys in kinds if keys]
    explained = explain(wanted, source.shapes) if missing or unexpected else None
    return problems if explained is None else [*problems, explained[0]]


def require_fit(slices: Iterable[Slice], source: TensorSource) -> None:
    """Raise one WeightsError that lists all of :func:`check_keys`, if there is anything."""
    slices = list(slices)
    problems = check_keys(slices, source)
    if problems:
        explained = explain([item.key for item in slices], source.shapes)
        hint = "the file belongs to other settings; `chexmix weights info` shows those in use"
        raise WeightsError(
            "keys do not fit the model: " + "; ".join(problems),
            where=source.where,
            hint=hint if explained is None else explained[1],
        )


def require_representable(source: TensorSource, dtype: torch.dtype | None) -> None:
    """Raise WeightsError, with counts and names, if ``dtype`` would lose what a source's tensors hold.

    Numbers that become infinite are refused; and a tensor of which more than a hundredth of the numbers become 0, or
    which changes by more than a hundredth in norm (numbers below the dtype's least normal one are stored coarsely). In
    float16 a trained network may well have a few numbers in a million that become 0; they change nothing.
    """

    if dtype is None:
        return
    codes, problems = dtype_codes(), []
    for key, code in source.dtypes.items():
        if code == codes[dtype] or code not in FLOAT_DTYPES:
            continue
        before = source.get(key).double()
        after = before.to(dtype).double()
        is_kept = before.isfinite() & after.isfinite()
        infinite = int((before.isfinite() & ~after.isfinite()).sum())
        used, lost = int(before.count_nonzero()), int(((before != 0) & (after == 0)).sum())
        change, size = ((after - before)[is_kept].norm().item(), before[is_kept].norm().item())
        if infinite:
            problems.append(f"{key} ({infinite} of {before.numel()} numbers become infinite)")
        elif lost > _MOST_LOST * used:
            problems.append(f"{key} ({lost} of {used} numbers become 0)")
        elif change > _MOST_LOST * size:
            problems.append(f"{key} ({used} numbers, too small for it, change by {change / size:.0%})")
        source.release()
    if problems:
        name = str(dtype).removeprefix("torch.")
        tensors = f"{len(problems)} tensor{'s' if len(problems) > 1 else ''}"
        raise WeightsError(
            f"{name} cannot hold {tensors}: {_bounded(problems)}",
            where=source.where,
            hint="--dtype bfloat16, or stored",
        )


def load_module(
    make: Callable[[], Module],
    table: Callable[[Module], Sequence[Slice]],
    source: TensorSource,
    *,
    device: torch.device | str,
    dtype: torch.dtype,
) -> Module:
    """Return the module of ``make``, built without memory, with every parameter taken from ``source``; in eval mode.

    Args:
        make: builds it.
        table: of its parameters.
        source: the checkpoint's tensors.
        device, dtype: of the parameters.

    Raises:
        WeightsError: one, that lists all missing, unexpected and misshapen keys, before any tensor is read; or one,
            that names a tensor with NaN or infinities.
    """
    module = without_memory(make)
    return filled(module, read_state(table(module), source, device=device, dtype=dtype))


def without_memory(make: Callable[[], Module]) -> Module:
    """Return the module of ``make``, on the meta device, to be :func:`filled`."""
    from chexmix_cli.core.models.meta import on_meta_device

    with on_meta_device():
        return make()


def read_state(
    slices: Sequence[Slice],
    source: TensorSource,
    *,
    device: torch.device | str,
    dtype: torch.dtype,
    convert: Callable[[str, Tensor], Mapping[str, Tensor]] | None = None,
) -> dict[str, Tensor]:
    """Return a module's state from a checkpoint; arguments and errors as :func:`load_module`.

    Args:
        convert: gives what a parameter is held as, under the names of the module's state; it is called parameter by
            parameter, so that no two are there in full.
    """
    import torch

    require_fit(slices, source)
    state: dict[str, Tensor] = {}
    # Backwards: a head, whose matrix is the largest, is narrowed before an embedding as large has its memory.
    ordered = sorted(slices, key=lambda item: item.parameter, reverse=True)
    for parameter, group in groupby(ordered, lambda item: item.parameter):
        parts = list(group)
        # Not the module's own: what it holds of a parameter may have another shape.
        value = torch.empty(joined_shape(parts), device=device, dtype=dtype)
        for part in parts:
            tensor = source.get(part.key)
            if not is_finite(tensor):
                raise WeightsError(
                    f"{part.key} holds numbers that are not finite",
                    where=source.where,
                    hint="copy or fetch the file again",
                )
            part.of(value).copy_(tensor)
        source.release()
        state |= {parameter: value} if convert is None else convert(parameter, value)
    return state


def filled(module: Module, state: Mapping[str, Tensor]) -> Module:
    """Return a module without memory with the tensors of a whole state, not copied; in eval mode."""
    module.load_state_dict(state, assign=True)
    unset = [name for name, value in (*module.named_parameters(), *module.named_buffers()) if value.is_meta]
    assert not unset, f"never filled: {unset}"  # a buffer outside the state dict would hold no numbers
    return module.eval()


def is_finite(tensor: Tensor) -> bool:
    """Return whether a tensor holds neither NaN nor infinities; without a copy of it."""
    import torch

    return tensor.numel() == 0 or all(bool(end.isfinite()) for end in torch.aminmax(tensor))


class ModuleSource:
    """A module's parameters under their checkpoint keys, as a :class:`TensorSource` of views."""

    def __init__(self, module: nn.Module, slices: Iterable[Slice]) -> None:
        self.where = type(module).__name__
        state, codes = module.state_dict(), dtype_codes()
        self._views = {item.key: item.of(state[item.parameter]) for item in slices}
        self.shapes: Mapping[str, tuple[int, ...]] = {key: tuple(view.shape) for key, view in self._views.items()}
        self.dtypes: Mapping[str, str] = {key: codes[view.dtype] for key, view in self._views.items()}

    def get(self, key: str) -> Tensor:
        """Return one parameter, or the slice of it that is this key."""
        return self._views[key].detach()

    def release(self) -> None:
        """Do nothing: the module owns its memory."""


def write_safetensors(
    path: Path, source: TensorSource, *, metadata: Mapping[str, str], dtype: torch.dtype | None = None
) -> None:
    """Write a source's tensors atomically, one at a time, converted to ``dtype`` if given, else bit for bit.

    The order is the safetensors package's: wide dtypes first, then by name, so that all stay aligned.
    """
    kinds, sizes = _written_dtypes(source, dtype), tensor_bytes(source, dtype)
    order = sorted(kinds, key=lambda key: (-DTYPE_BYTES[kinds[key]], key))
    header: dict[str, Any] = {"__metadata__": {"format": "pt", **metadata}}
    end = 0
    for key in order:
        start, end = end, end + sizes[key]
        header[key] = {"dtype": kinds[key], "shape": list(source.shapes[key]), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode("utf-8")
    text += b" " * (-len(text) % 8)
    with atomic_write(path) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for key in order:
            file.write(_raw_bytes(source.get(key), dtype))
            source.release()


def tensor_bytes(source: TensorSource, dtype: torch.dtype | None = None) -> dict[str, int]:
    """Return the bytes of each tensor, in ``dtype`` if given, else as it is."""
    kinds = _written_dtypes(source, dtype)
    return {key: math.prod(source.shapes[key]) * DTYPE_BYTES[kind] for key, kind in kinds.items()}


def _written_dtypes(source: TensorSource, dtype: torch.dtype | None) -> dict[str, str]:
    return dict(source.dtypes) if dtype is None else dict.fromkeys(source.dtypes, dtype_codes()[dtype])


def _raw_bytes(tensor: Tensor, dtype: torch.dtype | None) -> memoryview:
    import torch

    plain = tensor.to(device="cpu", dtype=dtype or tensor.dtype).contiguous()
    return plain.reshape(-1).view(torch.uint8).numpy().data


def dtype_codes() -> dict[torch.dtype, str]:
    """Return the header's code of each floating-point dtype."""
    import torch

    return {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}


def _bounded(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_NAMED_KEYS])
    return shown if len(names) <= _NAMED_KEYS else f"{shown} and {len(names) - _NAMED_KEYS} more"


def _show(shape: tuple[int, ...]) -> str:
    return " x ".join(str(extent) for extent in shape) or "a single number"
