"""How many bytes of memory the operations of a step read and write, counted as they run."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_aten = torch.ops.aten
#: Products: how long they take is a matter of their operations (``flop.py``), not of their bytes.
_PRODUCTS = {
    _aten.mm,
    _aten.addmm,
    _aten.addmm_,
    _aten.bmm,
    _aten.baddbmm,
    _aten.convolution,
    _aten.convolution_backward,
    _aten._scaled_dot_product_flash_attention_for_cpu,
    _aten._scaled_dot_product_flash_attention_for_cpu_backward,
}
#: They read as many elements of their first operand as they give.
_PICKING = {_aten.embedding, _aten.index_select, _aten.gather, _aten.index}
#: They write into a few places of what they are given.
_PLACING = {_aten.scatter_, _aten.index_put_, _aten.index_add_}
#: They write what they are given without reading it.
_OVERWRITING = {_aten.copy_, _aten.zero_, _aten.fill_, _aten.bernoulli_}
#: They reserve memory and write nothing.
_RESERVING = {_aten.empty, _aten.empty_like, _aten.empty_strided, _aten.new_empty, _aten.new_empty_strided}


class Traffic(TorchDispatchMode):
    """Counts what operations read and write while the block runs. Views move nothing, and products are left out.

    Attributes:
        bytes: if each operation is a kernel of its own: it reads its inputs and writes its results.
        fused_bytes: if all that runs between two products is one kernel, the least that a compiler can come to: it
            reads what was there before, once, and writes what a product or a later kernel reads.
        operations: kernels started, products among them, nothing fused.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes = self.fused_bytes = self.operations = 0
        self._run = _Run()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        given, made = _tensors((args, kwargs)), _tensors(result)
        storages = {_key(tensor) for tensor in given}
        new = [tensor for tensor in made if _key(tensor) not in storages]
        packet, changes = func.overloadpacket, func._schema.is_mutable
        if packet in _RESERVING or not (new or changes):
            return result
        self.operations += 1
        if packet in _PRODUCTS:
            self.fused_bytes += self._run.end(given)
        else:
            moved = _moved(packet, given, new, changes)
            self.bytes += moved
            # What picks, places or changes in place stands by itself: no chain of values goes through it.
            is_chained = not changes and packet not in _PICKING
            self.fused_bytes += self._run.add(given, new) if is_chained else moved
        return result


class _Run:
    """Operations between two products, taken as one kernel."""

    def __init__(self) -> None:
        self._number = 0
        self._made_in: dict[int, int] = {}  # storage -> the run it was made in, until it is written to memory
        self._read: set[int] = set()

    def add(self, given: list[Tensor], new: list[Tensor]) -> int:
        """Return the bytes that one more operation of the run moves."""
        moved = 0
        for tensor in given:
            key = _key(tensor)
            if key in self._read or self._made_in.get(key) == self._number:
                continue
            moved += _size(tensor) + self._written(tensor)
            self._read.add(key)
        for tensor in new:
            key = _key(tensor)
            self._made_in[key] = self._number
            # A storage that is gone may have its name given to another.
            weakref.finalize(tensor.untyped_storage(), self._forget, key)
        return moved

    def end(self, given: list[Tensor]) -> int:
        """Return the bytes written for a product, with which the run ends."""
        self._number += 1
        self._read.clear()
        return sum(self._written(tensor) for tensor in given)

    def _written(self, tensor: Tensor) -> int:
        return 0 if self._made_in.pop(_key(tensor), None) is None else _size(tensor)

    def _forget(self, key: int) -> None:
        self._made_in.pop(key, None)
        self._read.discard(key)


def _moved(packet: Any, given: list[Tensor], new: list[Tensor], changes: bool) -> int:
    sizes = [_size(tensor) for tensor in given]
    if packet in _PICKING:
        return 2 * sum(map(_size, new)) + sum(sizes[1:])
    if packet in _PLACING:
        return 3 * sum(sizes[1:])
    if packet in _OVERWRITING:
        return sum(sizes)
    return sum(sizes) + sum(map(_size, new)) + (sizes[0] if changes and sizes else 0)


def _tensors(values: Any) -> list[Tensor]:
    """Return the tensors among values, each once."""
    found = {id(value): value for value in tree_leaves(values) if isinstance(value, Tensor)}
    return list(found.values())


def _key(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _size(tensor: Tensor) -> int:
    # An expanded tensor is read where it lies: no more than its storage.
    return min(tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes())
