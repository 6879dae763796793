"""Count what torch.compile makes of our kernels' references, for an H100 that is not there.

Inductor plans on tensors without values, for a device that it is told of; Triton compiles what it wrote for sm_90, as
``tools/aot.py`` does with ours. Nothing runs, so no GPU is needed. Of each call, at the released model's sizes:

- ``kernels``: launches, of which ``products`` are the library's;
- ``bytes``: by Inductor's own count: what a kernel reads and writes of each tensor, once;
- ``instructions``: those of a thread, all threads of its own kernels together, with the first block sizes that Inductor
  would try; instructions of library products are not known.

``tuned`` is with ``coordinate_descent_tuning``, without which a product of one row is the library's, too. Written to
benchmarks/inductor.json, from which ``tools/kernel_tables.py`` takes torch.compile's side of docs/kernels.md.
Usage: python tools/inductor_plans.py [-o FILE] [--only CALL ...]
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest import mock

# Tensors that say "cuda" are cut as any other only where torch's C++ side believes in a card.
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "card"))
# An interpreted kernel is no kernel; and no pool of processes for a few of them.
os.environ |= {"TRITON_INTERPRET": "0", "TRITON_DISABLE_LINE_INFO": "1", "TORCHINDUCTOR_COMPILE_THREADS": "1"}

import loaded_guard  # noqa: F401 (what it loads comes before torch)

# isort: split
import aot
import torch
import triton
from torch import Tensor
from torch._inductor import config, graph
from torch._inductor.fx_passes import joint_graph
from torch._inductor.runtime import triton_helpers
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from chexmix_cli.core.kernels.expected_code import reference as expected_code
from chexmix_cli.core.kernels.nearest_code import reference as nearest_code
from chexmix_cli.core.kernels.quantized.panels import Panels, panel_shapes, restored
from chexmix_cli.core.kernels.restricted_head import reference as restricted_head
from chexmix_cli.core.kernels.rotary_cache import reference as rotary_cache

TARGET = Path(__file__).resolve().parents[1] / "benchmarks" / "inductor.json"
_ARCH = 90
#: What Inductor asks of a device (H100 SXM: CUDA C++ programming guide, compute capability 9.0).
_H100 = SimpleNamespace(
    name="H100",
    major=9,
    minor=0,
    multi_processor_count=132,
    warp_size=32,
    max_threads_per_block=1024,
    max_threads_per_multi_processor=2048,
    regs_per_multiprocessor=65536,
    shared_memory_per_block=48 << 10,
    shared_memory_per_block_optin=227 << 10,
    shared_memory_per_multiprocessor=228 << 10,
    L2_cache_size=50 << 20,
    total_memory=80 << 30,
    gcnArchName="",
)
Call = tuple[Callable[..., Any], tuple[Any, ...]]


class PlannedError(Exception):
    """The plan is there; what follows would need a device."""


def calls() -> Iterator[tuple[str, int, Callable[[], Call]]]:
    """Yield the name of each call, how many numbers it goes through, and what makes it; call that in a fake mode."""
    yield "nearest", 1024 * 8192, lambda: (nearest_code.nearest_code, (_new(1024, 256), _new(8192, 256)))
    yield "choose", 512 * 8192, lambda: (_chosen, _head(512, 8192))
    yield "expect", 512 * 8192, lambda: (_expected, (*_head(512, 8192), _new(8192, 256, dtype=torch.float32)))
    yield "score", 200 * 58562, lambda: (restricted_head.row_logprob, (*_head(200, 58562), _index(200)))
    yield "rotary", 3 * 1027 * 2560, lambda: (rotary_cache.rotate_and_cache, _rotary())
    for bits in (8, 4):
        for rows in (1, 9):
            yield f"quantized {bits} {rows}", 2560 * (17920 + 12800), partial(_quantized, bits, rows)


def _new(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="cuda")


def _index(*shape: int) -> Tensor:
    return _new(*shape, dtype=torch.int64)


def _head(states: int, rows: int) -> tuple[Tensor, ...]:
    return _new(states, 2560), _new(rows, 2560), _new(rows)


def _chosen(*tensors: Tensor) -> tuple[Tensor, ...]:
    found = restricted_head.choose_row(*tensors)
    return found.row_M, found.logit_M, found.logsumexp_M


def _expected(*tensors: Tensor) -> tuple[Tensor, ...]:
    found = expected_code.expected_code(*tensors)
    return found.code_M, found.prob_M, found.vector_ME


def _rotary() -> tuple[Tensor, ...]:
    tables = _new(1, 1, 1027, 16), _new(1, 1, 1027, 16)
    return (_new(1, 1027, 17920), *tables, _new(1, 32, 1280, 80), _new(1, 32, 1280, 80), _index(1))


def _layer(*tensors: Any) -> tuple[Tensor, ...]:
    """Return the products of both matrices of a layer, each with inputs, panels and biases of its own."""
    return tuple(
        # Biases by themselves: Inductor joins them to a product, but makes a sum only of a product without.
        F.linear(x, restored(Panels(weight, scale, len(bias), x.shape[1]), x.dtype)) + bias
        for x, weight, scale, bias in (tensors[:4], tensors[4:])
    )


def _quantized(bits: int, rows: int) -> Call:
    found: list[Tensor] = []
    for num_out, num_in in ((17920, 2560), (2560, 12800)):
        weight, scale = panel_shapes(bits, num_out, num_in)
        scales = _new(*scale, dtype=torch.float32 if bits == 8 else torch.bfloat16)
        found += [_new(rows, num_in), _new(*weight, dtype=torch.uint8), scales, _new(num_out)]
    return _layer, tuple(found)


def pretended(stack: ExitStack) -> None:
    """Make torch and Triton believe in an H100, as far as planning asks."""
    seed = torch.zeros(16, dtype=torch.uint8)
    answers: dict[str, Any] = {
        "is_available": True,
        "current_device": 0,
        "device_count": 1,
        "get_device_capability": (_H100.major, _H100.minor),
        "_get_device_properties": _H100,
        "get_rng_state": seed,
        "set_rng_state": None,
        "synchronize": None,
        "_lazy_init": None,
        "_exchange_device": 0,
        "_maybe_exchange_device": 0,
    }
    for name, answer in answers.items():
        stack.enter_context(mock.patch.object(torch.cuda, name, lambda *_, answer=answer, **__: answer, create=True))
    # Patterns of attention and padding are traced with tensors on the device; no reference here has any.
    stack.enter_context(mock.patch.object(joint_graph, "lazy_init"))
    stack.enter_context(mock.patch.object(triton_helpers, "set_driver_to_gpu"))
    target = GPUTarget("cuda", _ARCH, 32)
    triton.runtime.driver.set_active(
        SimpleNamespace(get_current_target=lambda: target, get_current_device=lambda: 0, is_active=lambda: True)
    )


def plan(make: Callable[[], Call], *, is_tuned: bool) -> tuple[str, int]:
    """Return the programme that Inductor writes for a call, and the bytes that it counts."""
    found: list[tuple[str, int]] = []

    def keep(lowering: graph.GraphLowering) -> None:
        programme, _ = lowering.codegen()
        found.append((programme.value, int(lowering.count_bytes()[0])))
        raise PlannedError

    torch._dynamo.reset()
    settings = {"fx_graph_cache": False, "joint_graph_constant_folding": False, "coordinate_descent_tuning": is_tuned}
    with mock.patch.object(graph.GraphLowering, "compile_to_module", keep), config.patch(settings), FakeTensorMode():
        function, tensors = make()
        try:
            torch.compile(function, fullgraph=True, dynamic=False)(*tensors)
        except torch._inductor.exc.InductorError as error:
            if not isinstance(error.inner_exception, PlannedError):
                raise
    return found[0]


def kernels_of(programme: str, folder: Path) -> list[tuple[str, Any]]:
    """Return the Triton kernels of a programme, each as often as it is launched: its text and Inductor's tuner."""
    texts = dict(re.findall(r"async_compile\.triton\('(\w+)', '''(.*?)'''", programme, re.DOTALL))
    tuners = {name: getattr(_module(name, text, folder), name) for name, text in texts.items()}
    return [(texts[name], tuners[name]) for name in re.findall(r"^\s+(\w+)\.run\(", programme, re.MULTILINE)]


def _module(name: str, text: str, folder: Path) -> ModuleType:
    path = folder / f"{name}.py"
    path.write_text(text, encoding="utf-8")
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def instructions(text: str, tuner: Any) -> int:
    """Return the instructions of all threads of one launch."""
    chosen = tuner.configs[0]
    signature = tuner.triton_meta["signature"]
    source = ASTSource(
        fn=tuner.fn,
        signature=signature,
        constexprs={name: value for name, value in chosen.kwargs.items() if name in signature},
        attrs=tuner.triton_meta["configs"][0],
    )
    options = {"num_warps": chosen.num_warps, "num_stages": chosen.num_stages}
    compiled = triton.compile(source, target=GPUTarget("cuda", _ARCH, 32), options=options)
    total, loops = aot.instruction_counts(compiled.asm["cubin"])
    sizes = {axis: int(count) for axis, count in re.findall(r"^\s+(\w+)numel = (\d+)$", text, re.MULTILINE)}
    rounds = {axis: math.ceil(size / chosen.kwargs.get(f"{axis.upper()}BLOCK", size)) for axis, size in sizes.items()}
    programs = math.prod(count for axis, count in rounds.items() if not axis.startswith("r"))
    turns = math.prod(count for axis, count in rounds.items() if axis.startswith("r"))
    a_thread = total - sum(loops) + turns * sum(loops)
    return int(programs * 32 * chosen.num_warps * a_thread)


def measure(make: Callable[[], Call], *, is_tuned: bool) -> dict[str, int]:
    """Return the figures of a call."""
    programme, num_bytes = plan(make, is_tuned=is_tuned)
    with tempfile.TemporaryDirectory() as folder:
        own = kernels_of(programme, Path(folder))
        counted = sum(instructions(text, tuner) for text, tuner in own)
    products = len(re.findall(r"^\s+extern_kernels\.\w+\(", programme, re.MULTILINE))
    return {"kernels": len(own) + products, "products": products, "bytes": num_bytes, "instructions": counted}


def main() -> None:
    """Plan every call, with and without tuning, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--out", type=Path, default=TARGET)
    parser.add_argument("--only", nargs="+", choices=[name for name, _, _ in calls()], metavar="CALL")
    options = parser.parse_args()
    found: dict[str, Any] = {"torch": torch.__version__.partition("+")[0], "triton": triton.__version__, "calls": {}}
    with ExitStack() as stack:
        pretended(stack)
        for name, numbers, make in calls():
            if options.only and name not in options.only:
                continue
            ways = {way: measure(make, is_tuned=way == "tuned") for way in ("default", "tuned")}
            found["calls"][name] = {"numbers": numbers, **ways}
            print(name, ways, file=sys.stderr, flush=True)
    options.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
