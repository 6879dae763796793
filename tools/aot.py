"""Compile every tuned kernel configuration ahead of time for sm_80, sm_90 and sm_100, and write what it needs.

No GPU is needed: Triton brings the assembler and cuobjdump. Shared memory, registers and spills of each go to
benchmarks/aot.json; the test suite compiles again and compares. Usage: python tools/aot.py [-o FILE] [--arch 80 ...]
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

assert os.environ.get("TRITON_INTERPRET") != "1", "the interpreter compiles nothing"
# As kernels run on a GPU by default; said, so that a newer Triton's default changes nothing.
os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from chexmix_cli.core.kernels.nearest_code import kernels as nearest_code_kernels
from chexmix_cli.core.kernels.nearest_code import tuning as nearest_code_tuning
from chexmix_cli.core.kernels.restricted_head import kernels as restricted_head_kernels
from chexmix_cli.core.kernels.restricted_head import tuning as restricted_head_tuning

TARGET = Path(__file__).resolve().parents[1] / "benchmarks" / "aot.json"
ARCHS = (80, 90, 100)
#: Shared memory a block can have, in bytes (CUDA C++ programming guide, compute capabilities).
SHARED_LIMIT = {80: 163 * 1024, 90: 227 * 1024, 100: 227 * 1024}
_POINTERS = {torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.float16: "*fp16"}


@dataclass(frozen=True)
class Spec:
    """One configuration of one kernel, as it is launched."""

    name: str
    kernel: Any
    signature: dict[str, str]
    constants: dict[str, Any]
    num_warps: int
    num_stages: int


def specs() -> Iterator[Spec]:
    """Yield every tuned configuration."""
    for dtype, config in nearest_code_tuning.CONFIGS.items():
        signature = {"z_ptr": _POINTERS[dtype], "codebook_ptr": _POINTERS[dtype], "codes_ptr": "*i64"}
        signature |= dict.fromkeys(("num_latents", "num_codes", "code_size", "stride_zm", "stride_ck"), "i32")
        constants = {"BLOCK_M": config.block_m, "BLOCK_K": config.block_k, "BLOCK_E": config.block_e, "UPCAST": False}
        kernel = nearest_code_kernels._nearest_code_fwd_kernel
        yield Spec(f"nearest_code {_short(dtype)}", kernel, signature, constants, config.num_warps, config.num_stages)
    for (dtype, is_many), config in restricted_head_tuning.CONFIGS.items():
        pointers = dict.fromkeys(("state_ptr", "weight_ptr", "bias_ptr"), _POINTERS[dtype])
        pointers |= dict.fromkeys(("seed_ptr", "row_ptr"), "*i64")
        pointers |= dict.fromkeys(("score_ptr", "logit_ptr", "peak_ptr", "sum_ptr"), "*fp32")
        numbers = dict.fromkeys(("num_states", "num_rows", "hidden_size", "stride_sm", "stride_wr"), "i32")
        for is_sampled in (False, True):
            constants = {"BLOCK_M": config.block_m, "BLOCK_R": config.block_r, "BLOCK_D": config.block_d}
            constants |= {"IS_SAMPLED": is_sampled, "UPCAST": False}
            words = [_short(dtype), "many" if is_many else "few", "sampled" if is_sampled else "greedy"]
            kernel = restricted_head_kernels._restricted_head_fwd_kernel
            signature = pointers | numbers | {"inverse_temperature": "fp32"}
            name = f"restricted_head {' '.join(words)}"
            yield Spec(name, kernel, signature, constants, config.num_warps, config.num_stages)


def build(spec: Spec, arch: int) -> dict[str, int]:
    """Compile one configuration and return bytes of shared memory, registers a thread, bytes spilt and of the cubin.

    Pointers and numbers that real calls give in multiples of 16 are declared so, as Triton does when it launches.
    """
    names = list(spec.signature)
    aligned = {(names.index(name),): [["tt.divisibility", 16]] for name in names if _is_aligned(name)}
    signature = spec.signature | dict.fromkeys(spec.constants, "constexpr")
    source = ASTSource(fn=spec.kernel, signature=signature, constexprs=spec.constants, attrs=aligned)
    options = {"num_warps": spec.num_warps, "num_stages": spec.num_stages}
    compiled = triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options)
    cubin = compiled.asm["cubin"]
    used = _resources(cubin)
    return {
        "shared_bytes": compiled.metadata.shared,
        "registers": used["REG"],
        "spilled_bytes": used["LOCAL"] + used["STACK"],
        "cubin_bytes": len(cubin),
    }


def _is_aligned(name: str) -> bool:
    return name.endswith("_ptr") or name.startswith("stride") or name in ("code_size", "hidden_size", "num_codes")


def _resources(cubin: bytes) -> dict[str, int]:
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [str(tool), "--dump-resource-usage", file.name]
        printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    line = next(line for line in printed.splitlines() if "REG:" in line)
    return {name: int(value) for name, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", line)}


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def main() -> None:
    """Compile and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--out", type=Path, default=TARGET)
    parser.add_argument("--arch", type=int, nargs="+", choices=ARCHS, default=list(ARCHS))
    arguments = parser.parse_args()
    found: dict[str, Any] = {"triton": triton.__version__, "kernels": {}}
    for spec in specs():
        for arch in arguments.arch:
            found["kernels"].setdefault(spec.name, {})[f"sm_{arch}"] = build(spec, arch)
    arguments.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    sys.stdout.write(f"wrote {arguments.out}\n")


if __name__ == "__main__":
    main()
