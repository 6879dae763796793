"""``torch.cuda`` of two pretended devices: what the package and torch's own Python ask of it. Importing installs it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pretended
import torch
from pretended import COUNTS, GUARD, Pretended, note, recording

DEVICES = 2


class _Stream:
    def __init__(self, device: Any = None, *arguments: Any, **options: Any) -> None:
        self.device = _device(device)

    def wait_stream(self, other: _Stream) -> None:
        """Order two streams: here everything is in order."""

    def synchronize(self) -> None:
        note("waits")


class _Event:
    def __init__(self, *arguments: Any, **options: Any) -> None:
        pass

    def record(self, stream: Any = None) -> None:
        """Mark a place in a stream."""

    def synchronize(self) -> None:
        note("waits")


class _Graph:
    def replay(self) -> None:
        COUNTS["replays"] += 1
        if not len(self.recorded):
            raise RuntimeError("the CUDA graph is empty: what it should hold ran on another device")
        self.recorded.replay()

    def pool(self) -> tuple[int, int]:
        return (0, 1)


@contextlib.contextmanager
def _graph(graph: _Graph, **options: Any) -> Iterator[None]:
    COUNTS["captures"] += 1
    with recording() as graph.recorded:
        yield


@contextlib.contextmanager
def _on(device: Any) -> Iterator[None]:
    before, chosen = GUARD.current_device(), _device(device)
    GUARD.set_current_device(chosen.index if chosen.type == "cuda" else before)
    try:
        yield
    finally:
        GUARD.set_current_device(before)


def _device(device: Any) -> torch.device:
    if device is None:
        return torch.device("cuda", GUARD.current_device())
    found = torch.device("cuda", device) if isinstance(device, int) else torch.device(device)
    return pretended.on_card(found) or found


def _tensor(make: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """Return ``torch.tensor`` as a card has it: numbers come from pageable memory, a tensor's own from the device."""

    def made(
        data: Any, *, dtype: Any = None, device: Any = None, requires_grad: bool = False, pin_memory: bool = False
    ):  # type: ignore[no-untyped-def]
        if isinstance(data, Pretended):
            note("waits")
            data = data.inner
        values = make(data, dtype=dtype)
        if pin_memory:
            values = pretended.pin(values)
        target = pretended.on_card(device)
        if target is not None and target.type != "cpu":
            values = values.to(target)
        return values.requires_grad_(requires_grad) if requires_grad else values

    return made


def _install() -> None:
    cuda: Any = torch.cuda
    torch.version.cuda = "12.8"
    cuda._lazy_init = lambda: None
    cuda._is_in_bad_fork = lambda: False
    cuda.is_available = cuda.is_initialized = lambda: True
    cuda.device_count = lambda: DEVICES
    cuda.current_device = lambda: GUARD.current_device()
    cuda.set_device = lambda device: GUARD.set_current_device(_device(device).index)
    cuda.device, cuda.device_of = _on, lambda tensor: _on(tensor.device)
    cuda.get_device_capability = lambda device=None: (9, 0)
    cuda.get_device_name = lambda device=None: "pretended"
    cuda.is_bf16_supported = lambda including_emulation=True: True
    cuda.mem_get_info = lambda device=None: (70 << 30, 80 << 30)
    cuda.max_memory_allocated = lambda device=None: 0
    cuda.synchronize = lambda device=None: note("waits")
    cuda.Stream, cuda.Event, cuda.CUDAGraph, cuda.graph = _Stream, _Event, _Graph, _graph
    cuda.current_stream, cuda.stream = lambda device=None: _Stream(device), lambda stream: contextlib.nullcontext()
    cuda.graph_pool_handle = lambda: (0, 1)
    cuda.manual_seed = cuda.manual_seed_all = lambda seed: None
    cuda.get_rng_state = lambda device="cuda": torch.get_rng_state()
    cuda.set_rng_state = lambda state, device="cuda": torch.set_rng_state(state)
    cuda.amp.common.amp_definitely_not_available = lambda: False
    torch.tensor = _tensor(torch.tensor)
    tensor: Any = torch.Tensor
    tensor.new_tensor = lambda self, data, *, dtype=None, device=None, **options: torch.tensor(
        data, dtype=dtype or self.dtype, device=device or self.device
    )
    tensor.pin_memory = lambda self, *arguments: pretended.pin(self)
    tensor.is_pinned = lambda self, *arguments: not isinstance(self, Pretended) and pretended.is_pinned(self)
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    # A wrapper has no version counter to be without.
    torch.inference_mode = lambda mode=True: torch.no_grad()  # type: ignore[assignment, misc]


def use_references() -> None:
    """Let our Triton ops compute what their references do: tests/kernels holds them to that."""
    from chexmix_cli.core.kernels.decode_attention import op as _attention
    from chexmix_cli.core.kernels.decode_attention import reference as decode_attention
    from chexmix_cli.core.kernels.expected_code import op as _expected
    from chexmix_cli.core.kernels.expected_code import reference as expected_code
    from chexmix_cli.core.kernels.nearest_code import op as _nearest
    from chexmix_cli.core.kernels.nearest_code import reference as nearest_code
    from chexmix_cli.core.kernels.quantized import op as quantized
    from chexmix_cli.core.kernels.quantized.panels import Panels, restored
    from chexmix_cli.core.kernels.restricted_head import op as _head
    from chexmix_cli.core.kernels.restricted_head import reference as restricted_head
    from chexmix_cli.core.kernels.rotary_cache import op as _rotary
    from chexmix_cli.core.kernels.rotary_cache import reference as rotary_cache

    assert all((_attention, _expected, _nearest, _head, _rotary)), "imported, so that they are registered"

    def choose_row(state: Any, weight: Any, bias: Any) -> tuple[Any, ...]:
        chosen = restricted_head.choose_row(state, weight, bias)
        return chosen.row_M, chosen.logit_M, chosen.logsumexp_M

    def expected(state: Any, weight: Any, bias: Any, codebook: Any, temperature: float) -> tuple[Any, ...]:
        found = expected_code.expected_code(state, weight, bias, codebook, temperature=temperature)
        return found.code_M, found.prob_M, found.vector_ME

    def quantized_product(x: Any, weight: Any, scale: Any, bias: Any, first: int, last: int) -> Any:
        panels = Panels(weight, scale, 16 * len(weight), x.shape[1])
        return quantized.piecewise(x, panels, bias, first, last, is_triton=False)

    def restored_weights(weight: Any, scale: Any, num_out: int, num_in: int, dtype: torch.dtype) -> Any:
        return restored(Panels(weight, scale, num_out, num_in), dtype)

    def in_plain_layout(func: Any) -> Any:
        # With channels last a CPU sums in another order, and its GroupNorm loses digits (models/vqgan.py: layout).
        def run(*arguments: Any) -> Any:
            return func(*(one.contiguous() if isinstance(one, torch.Tensor) else one for one in arguments))

        return run

    aten, ops = torch.ops.aten, torch.ops.chexmix
    laid_out = (
        aten.convolution.default,
        aten.convolution_backward.default,
        aten.native_group_norm.default,
        aten.native_group_norm_backward.default,
    )
    pretended.REFERENCES.update(
        {
            **{func: in_plain_layout(func) for func in laid_out},
            ops.nearest_code.default: nearest_code.nearest_code,
            ops.choose_row.default: choose_row,
            ops.row_logprob.default: restricted_head.row_logprob,
            ops.expected_code.default: expected,
            ops.rotate_and_cache.default: rotary_cache.rotate_and_cache,
            ops.decode_attention.default: decode_attention.attend,
            ops.quantized_product.default: quantized_product,
            ops.restored_weights.default: restored_weights,
        }
    )


_install()
