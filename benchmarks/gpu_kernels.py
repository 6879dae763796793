"""The Triton kernels on this machine's GPU: time, bandwidth and FLOP rate beside plain torch and torch.compile.

Every op runs at the released model's sizes, three ways on the same inputs: our kernel, the reference as it is, and the
reference under ``torch.compile``; first the results are compared. Times are medians with the 20th and 80th percentile.
Bandwidth is the bytes that must move at least (inputs once, outputs once) over the time, the FLOP rate that of the
products; both as a share of the card's peak by its data sheet, where the card is in ``PEAKS``, and of the best copy and
product measured in this run. Output: a JSON line a measurement, the card and versions first.

    make gpu-bench
    python benchmarks/gpu_kernels.py [-o FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from chexmix_cli.core.kernels.decode_attention import op as attention_op
from chexmix_cli.core.kernels.decode_attention import reference as attention_reference
from chexmix_cli.core.kernels.expected_code import op as expected_op
from chexmix_cli.core.kernels.expected_code import reference as expected_reference
from chexmix_cli.core.kernels.nearest_code import op as nearest_op
from chexmix_cli.core.kernels.nearest_code import reference as nearest_reference
from chexmix_cli.core.kernels.quantized import op as quantized_op
from chexmix_cli.core.kernels.quantized.panels import PANEL, Panels, restored
from chexmix_cli.core.kernels.quantized.reference import GROUP
from chexmix_cli.core.kernels.restricted_head import op as head_op
from chexmix_cli.core.kernels.restricted_head import reference as head_reference
from chexmix_cli.core.kernels.rotary_cache import op as rotary_op
from chexmix_cli.core.kernels.rotary_cache import reference as rotary_reference

#: Data-sheet peaks by part of the device's name: bytes/s, and dense FLOP/s of bfloat16 and of float32 without TF32.
PEAKS = {
    "H200": (4.8e12, 989e12, 67e12),
    "H100 80GB HBM3": (3.35e12, 989e12, 67e12),
    "A100-SXM4-80GB": (2.039e12, 312e12, 19.5e12),
    "A100-SXM4-40GB": (1.555e12, 312e12, 19.5e12),
}
#: Exit code of the command line for a machine that lacks something.
NO_GPU = 4


@dataclass(frozen=True)
class Case:
    """One op at one size.

    Attributes:
        name: what runs.
        ours, plain: the kernel and the reference, on the same inputs.
        num_bytes, num_flops: least traffic and product operations of a call.
        dtype: of the products.
    """

    name: str
    ours: Callable[[], Any]
    plain: Callable[[], Any]
    num_bytes: int
    num_flops: int
    dtype: torch.dtype

    def agreement(self) -> dict[str, float]:
        """Return how well the kernel's result agrees: the share of equal numbers, or the largest difference."""
        ours, plain = self.ours(), self.plain()
        if ours.is_floating_point():
            return {"largest_difference": float((ours - plain).abs().max())}
        return {"equal": float((ours == plain).float().mean())}


def cases(device: torch.device, shrink: int = 1) -> Iterator[Case]:
    """Yield every case, with its inputs on the device; every size divided by ``shrink``, which is for tests."""
    generator = torch.Generator(device).manual_seed(0)

    def draw(*shape: int, dtype: torch.dtype) -> Tensor:
        return torch.randn(shape, generator=generator, device=device).to(dtype)

    for dtype in (torch.float32, torch.bfloat16):
        for images in (1, 8):
            z = draw(1024 * images // shrink, 256, dtype=dtype)
            codebook = draw(8192 // shrink, 256, dtype=dtype)
            yield Case(
                f"nearest_code, {images} images",
                lambda z=z, codebook=codebook: nearest_op.nearest_code(z, codebook),
                lambda z=z, codebook=codebook: nearest_reference.nearest_code(z, codebook),
                z.nbytes + codebook.nbytes + 8 * len(z),
                2 * len(z) * codebook.numel(),
                dtype,
            )
    yield from head_cases(draw, shrink)
    yield expected_case(draw, shrink)
    yield from rotary_cases(draw, shrink)
    yield from quantized_cases(draw, shrink)
    yield from attention_cases(draw, shrink)


def head_cases(draw: Callable[..., Tensor], shrink: int) -> Iterator[Case]:
    """Yield the restricted head's: one state and many, best and given rows."""
    dtype, hidden = torch.bfloat16, 2560 // shrink
    for most, all_rows in ((1, 50257), (1, 8192), (512, 8192), (200, 58562)):
        states, rows = max(1, most // shrink), all_rows // shrink
        x, weight, bias = draw(states, hidden, dtype=dtype), draw(rows, hidden, dtype=dtype), draw(rows, dtype=dtype)
        seeds = torch.arange(states, device=x.device)
        num_bytes, num_flops = x.nbytes + weight.nbytes + bias.nbytes, 2 * states * weight.numel()
        calls: dict[str, Callable[[Any], Any]] = {
            "best": lambda part, x=x, w=weight, b=bias: part.choose_row(x, w, b).row_M,
            "given": lambda part, x=x, w=weight, b=bias, s=seeds: part.row_logprob(x, w, b, s),
        }
        for name, call in calls.items():
            yield Case(
                f"restricted_head {name}, {states} states, {rows} rows",
                lambda call=call: call(head_op),
                lambda call=call: call(head_reference),
                num_bytes,
                num_flops,
                dtype,
            )


def expected_case(draw: Callable[..., Tensor], shrink: int) -> Case:
    """Return the expected code vectors of half an image."""
    dtype, states, codes, hidden = torch.bfloat16, 512 // shrink, 8192 // shrink, 2560 // shrink
    x, weight, bias = draw(states, hidden, dtype=dtype), draw(codes, hidden, dtype=dtype), draw(codes, dtype=dtype)
    codebook = draw(codes, 256, dtype=torch.float32)
    return Case(
        f"expected_code, {states} states, {codes} codes",
        lambda: expected_op.expected_code(x, weight, bias, codebook).vector_ME,
        lambda: expected_reference.expected_code(x, weight, bias, codebook).vector_ME,
        x.nbytes + weight.nbytes + bias.nbytes + codebook.nbytes + states * (4 * 256 + 12),
        2 * states * (weight.numel() + codebook.numel()),
        dtype,
    )


def rotary_cases(draw: Callable[..., Tensor], shrink: int) -> Iterator[Case]:
    """Yield a layer's rotation and cache write: a prompt of 1027 tokens, and one token of eight reports."""
    dtype, heads, size, half = torch.bfloat16, max(1, 32 // shrink), 80, 16
    for rows, new in ((1, max(1, 1027 // shrink)), (8, 1)):
        fused = draw(rows, new, 3 * heads * size + 4 * heads * size, dtype=dtype)
        cos, sin = draw(1, 1, new, half, dtype=dtype), draw(1, 1, new, half, dtype=dtype)
        keys, values = draw(2, rows, heads, new + 200, size, dtype=dtype).unbind()
        arguments = (fused, cos, sin, keys, values, torch.full((rows,), 100, device=fused.device))
        yield Case(
            f"rotary_cache, {rows} x {new} tokens",
            lambda arguments=arguments: rotary_op.rotate_and_cache(*arguments),
            lambda arguments=arguments: rotary_reference.rotate_and_cache(*arguments),
            2 * 3 * rows * new * heads * size * fused.element_size(),
            0,
            dtype,
        )


def quantized_cases(draw: Callable[..., Tensor], shrink: int) -> Iterator[Case]:
    """Yield a layer's two products of 8 and of 4 bits: a token, drafts, reports together, and a prompt."""
    for bits in (8, 4):
        for num_out, num_in in ((17920 // shrink, 2560 // shrink), (2560 // shrink, 12800 // shrink)):
            panels = drawn_panels(draw, bits, num_out, num_in)
            for rows in (1, 9, 64, 1027):
                x = draw(max(1, rows // shrink), num_in, dtype=torch.bfloat16) / num_in**0.5
                yield Case(
                    f"quantized_product int{bits}, {len(x)} x {num_in} to {num_out}",
                    lambda x=x, panels=panels: quantized_op.product(x, panels),
                    lambda x=x, panels=panels: x @ restored(panels, x.dtype).T,
                    panels.weight.nbytes + panels.scale.nbytes + 2 * len(x) * (num_in + num_out),
                    2 * len(x) * num_out * num_in,
                    torch.bfloat16,
                )


def drawn_panels(draw: Callable[..., Tensor], bits: int, num_out: int, num_in: int) -> Panels:
    """Return panels of any numbers, whose scales make them about as large as the inputs."""
    num_panels, num_groups = -(-num_out // PANEL), -(-num_in // GROUP)
    weight = draw(num_panels, num_groups, PANEL * 4 * bits, dtype=torch.float32).mul_(1 << 12).long().to(torch.uint8)
    shape = (num_panels, PANEL) if bits == 8 else (num_panels, num_groups, PANEL)
    scale = draw(*shape, dtype=torch.float32) / (1 << bits - 2)
    return Panels(weight, scale if bits == 8 else scale.bfloat16(), num_out, num_in)


def attention_cases(draw: Callable[..., Tensor], shrink: int) -> Iterator[Case]:
    """Yield a layer's attention behind 1,227 positions of a cache of 1,280: a token, drafts, reports together."""
    heads, places, used = max(1, 32 // shrink), 1280 // shrink, 1227 // shrink
    for rows, new in ((1, 1), (1, 9), (8, 1)):
        q = draw(rows, heads, new, 80, dtype=torch.bfloat16)
        keys, values = draw(2, rows, heads, places, 80, dtype=torch.bfloat16).unbind()
        mask = torch.ones(rows, new, places, dtype=torch.bool, device=q.device).tril(max(0, used - new))
        yield Case(
            f"decode_attention, {rows} x {new} tokens behind {used}",
            lambda given=(q, keys, values, mask): attention_op.attend(*given),
            lambda given=(q, keys, values, mask): attention_reference.attend(*given),
            2 * 2 * rows * heads * used * 80 + 2 * 2 * q.numel() + mask.nbytes,
            4 * new * rows * heads * used * 80,
            torch.bfloat16,
        )


def measure(case: Case, roof: dict[str, float], peak: tuple[float, float, float] | None) -> Iterator[dict[str, Any]]:
    """Yield a line a way of running a case: ours, torch, torch.compile."""
    agreement = case.agreement()
    ways = {"kernel": case.ours, "torch": case.plain, "torch.compile": torch.compile(case.plain)}
    for way, run in ways.items():
        low, middle, high = _milliseconds(run)
        rates = {"bytes_per_s": case.num_bytes / middle * 1e3, "flop_per_s": case.num_flops / middle * 1e3}
        line = {"case": case.name, "dtype": str(case.dtype), "way": way, "ms": middle, "ms_20": low, "ms_80": high}
        line |= rates | {"of_copy": rates["bytes_per_s"] / roof["bytes_per_s"]}
        line["of_product"] = rates["flop_per_s"] / roof[str(case.dtype)]
        if peak is not None:
            line["of_peak_bytes"] = rates["bytes_per_s"] / peak[0]
            line["of_peak_flop"] = rates["flop_per_s"] / peak[1 if case.dtype == torch.bfloat16 else 2]
        yield line | (agreement if way == "kernel" else {})


def measured_roof(device: torch.device) -> dict[str, float]:
    """Return the rates of a large copy (bytes read and written) and of large square products."""
    source = torch.empty(1 << 30, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    found = {"bytes_per_s": 2 * source.nbytes / _milliseconds(lambda: target.copy_(source))[1] * 1e3}
    for dtype in (torch.float32, torch.bfloat16):
        a = torch.randn(4096, 4096, device=device).to(dtype)
        found[str(dtype)] = 2 * 4096**3 / _milliseconds(lambda a=a: a @ a)[1] * 1e3
    return found


def _milliseconds(run: Callable[[], Any]) -> tuple[float, float, float]:
    from triton.testing import do_bench

    low, middle, high = do_bench(run, quantiles=[0.2, 0.5, 0.8])
    return low, middle, high


def main() -> int:
    """Measure, and print a JSON line each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--out", type=Path, help="also write the lines to this file")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        print("error: no CUDA device: the kernels cannot be timed on this machine", file=sys.stderr)
        print(
            "hint: `make test` runs them in Triton's interpreter, `make aot` compiles them without a GPU",
            file=sys.stderr,
        )
        return NO_GPU
    import triton

    os.environ["CHEXMIX_KERNELS"] = "triton"
    device = torch.device("cuda", 0)
    card = torch.cuda.get_device_name(device)
    peak = next((peaks for name, peaks in PEAKS.items() if name in card), None)
    roof = measured_roof(device)
    lines: list[dict[str, Any]] = [{"card": card, "torch": torch.__version__, "triton": triton.__version__} | roof]
    print(json.dumps(lines[0]), flush=True)
    for case in cases(device):
        for line in measure(case, roof, peak):
            lines.append(line)
            print(json.dumps(line), flush=True)
    if arguments.out:
        arguments.out.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
