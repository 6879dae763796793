"""Compile every tuned kernel configuration ahead of time for sm_80, sm_90 and sm_100, and write what it needs.

No GPU is needed: Triton brings the assembler and cuobjdump. Shared memory, registers and spills of each go to
benchmarks/aot.json, beside the blocks they were compiled with and the hash of the kernel's source; the test suite holds
that against the tuning tables, and compiles some again where Triton is.
Usage: python tools/aot.py [-o FILE] [--arch 80 ...] [--only NAME ...]
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

# As kernels run on a GPU by default; said, so that a newer Triton's default changes nothing.
os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")
# Line information holds the path of the checkout, and so makes the cubin as large as the path is long.
os.environ["TRITON_DISABLE_LINE_INFO"] = "1"

import torch

from chexmix_cli.core.kernels.decode_attention import tuning as decode_attention
from chexmix_cli.core.kernels.expected_code import tuning as expected_code
from chexmix_cli.core.kernels.nearest_code import tuning as nearest_code
from chexmix_cli.core.kernels.quantized import tuning as quantized
from chexmix_cli.core.kernels.restricted_head import tuning as restricted_head
from chexmix_cli.core.kernels.rotary_cache import tuning as rotary_cache

REPOSITORY = Path(__file__).resolve().parents[1]
KERNELS = REPOSITORY / "chexmix_cli" / "core" / "kernels"
TARGET = REPOSITORY / "benchmarks" / "aot.json"
ARCHS = (80, 90, 100)
#: Shared memory a block can have, in bytes (CUDA C++ programming guide, compute capabilities).
SHARED_LIMIT = {80: 163 * 1024, 90: 227 * 1024, 100: 227 * 1024}
_POINTERS = {torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.float16: "*fp16"}
#: Numbers that real calls give in multiples of 16, beside every stride and pointer.
_ALIGNED = ("code_size", "hidden_size", "num_codes", "codes_per_share", "head_size", "half", "num_inputs", "num_groups")


@dataclass(frozen=True)
class Spec:
    """One configuration of one kernel, as it is launched.

    Attributes:
        name: op, dtype and variant.
        op: folder of the op.
        kernel: function in its ``kernels.py``.
        signature: Triton types by argument.
        constants: values of its ``tl.constexpr`` arguments.
    """

    name: str
    op: str
    kernel: str
    signature: dict[str, str]
    constants: dict[str, Any]
    num_warps: int
    num_stages: int

    def recorded(self) -> dict[str, Any]:
        """Return what the table says of the configuration beside what the compiler finds."""
        # An op may use the functions of the other two.
        files = [KERNELS / folder / "kernels.py" for folder in (self.op, "logits", "rounding")]
        source = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]
        constants = self.constants | {"num_warps": self.num_warps, "num_stages": self.num_stages}
        return {"constants": constants, "source": source}


def specs() -> list[Spec]:
    """Return every tuned configuration; needs no Triton."""
    return [
        *_nearest_code(),
        *_restricted_head(),
        *_expected_code(),
        *_rotary_cache(),
        *_quantized_product(),
        *_restored_weights(),
        *_decode_attention(),
    ]


def _nearest_code() -> Iterator[Spec]:
    for dtype, config in nearest_code.CONFIGS.items():
        signature = dict.fromkeys(("z_ptr", "codebook_ptr"), _POINTERS[dtype])
        signature |= {"distance_ptr": "*fp32", "codes_ptr": "*i64"}
        signature |= _integers("num_latents num_codes codes_per_share code_size stride_zm stride_ck")
        yield _spec(f"nearest_code {_short(dtype)}", "_nearest_code_fwd_kernel", signature, config, {"UPCAST": False})


def _restricted_head() -> Iterator[Spec]:
    for (dtype, is_many), config in restricted_head.CONFIGS.items():
        signature = dict.fromkeys(("state_ptr", "weight_ptr", "bias_ptr"), _POINTERS[dtype])
        signature |= dict.fromkeys(("given_ptr", "row_ptr"), "*i64")
        signature |= dict.fromkeys(("logit_ptr", "peak_ptr", "sum_ptr"), "*fp32")
        signature |= _integers("num_states num_rows hidden_size stride_sm stride_wr")
        for mode, word in enumerate(("greedy", "given")):
            name = f"restricted_head {_short(dtype)} {'many' if is_many else 'few'} {word}"
            constants = {"MODE": mode, "UPCAST": False}
            yield _spec(name, "_restricted_head_fwd_kernel", signature, config, constants)


def _expected_code() -> Iterator[Spec]:
    for dtype, config in expected_code.CONFIGS.items():
        signature = dict.fromkeys(("state_ptr", "weight_ptr", "bias_ptr"), _POINTERS[dtype])
        signature |= {"codebook_ptr": "*fp32", "code_ptr": "*i64"}
        signature |= dict.fromkeys(("peak_ptr", "sum_ptr", "weight_sum_ptr", "vector_ptr"), "*fp32")
        signature |= _integers("num_states num_codes codes_per_share hidden_size code_size")
        signature |= _integers("stride_sm stride_wk stride_ck") | {"inverse_temperature": "fp32"}
        constants = {"BLOCK_E": expected_code.WIDEST, "UPCAST": False}
        yield _spec(f"expected_code {_short(dtype)}", "_expected_code_fwd_kernel", signature, config, constants)


def _rotary_cache() -> Iterator[Spec]:
    for dtype, pointer in _POINTERS.items():
        signature = dict.fromkeys(("fused_ptr", "cos_ptr", "sin_ptr"), pointer) | {"start_ptr": "*i64"}
        signature |= dict.fromkeys(("q_ptr", "keys_ptr", "values_ptr"), pointer)
        signature |= _integers("num_new num_heads head_size half stride_fb stride_ft")
        signature |= _integers("stride_cb stride_ct stride_kb stride_kn stride_ks")
        for config in rotary_cache.CONFIGS:
            name = f"rotary_cache {_short(dtype)} {config.block_h}"
            yield _spec(name, "_rotary_cache_fwd_kernel", signature, config, {"INTERPRETED": False})


def _quantized_product() -> Iterator[Spec]:
    named: dict[str, Spec] = {}
    for (dtype, is_narrow), configs in quantized.CONFIGS.items():
        for bits, scale in ((8, "*fp32"), (4, "*bf16")):
            signature = {"x_ptr": _POINTERS[dtype], "weight_ptr": "*u8", "scale_ptr": scale}
            signature |= dict.fromkeys(("bias_ptr", "y_ptr"), _POINTERS[dtype])
            signature |= _integers("num_rows num_inputs num_groups first last stride_xr")
            for config in configs:
                width = "" if dtype == torch.float32 else " narrow" if is_narrow else " wide"
                name = f"quantized_product int{bits} {_short(dtype)}{width} {config.block_r}"
                constants = {"BITS": bits, "HAS_BIAS": True, "INTERPRETED": False}
                kernel = "_quantized_product_fwd_kernel"
                named[name] = _spec(name, kernel, signature, config, constants, op="quantized")
    yield from named.values()


def _restored_weights() -> Iterator[Spec]:
    for dtype, pointer in _POINTERS.items():
        for bits, scale in ((8, "*fp32"), (4, "*bf16")):
            signature = {"weight_ptr": "*u8", "scale_ptr": scale, "number_ptr": pointer}
            signature |= _integers("num_out num_inputs num_groups")
            constants = {"BITS": bits, "INTERPRETED": False}
            name = f"restored_weights int{bits} {_short(dtype)}"
            yield _spec(name, "_restored_weights_fwd_kernel", signature, quantized.RESTORE, constants, op="quantized")


def _decode_attention() -> Iterator[Spec]:
    for dtype, configs in decode_attention.CONFIGS.items():
        signature = dict.fromkeys(("q_ptr", "keys_ptr", "values_ptr"), _POINTERS[dtype]) | {"attend_ptr": "*u8"}
        signature |= dict.fromkeys(("mixed_ptr", "peak_ptr", "sum_ptr"), "*fp32")
        signature |= _integers("num_heads num_new num_places num_blocks head_size stride_qb stride_qn stride_qt")
        signature |= _integers("stride_kb stride_kn stride_ks stride_ab stride_at") | {"scale": "fp32"}
        for config in configs:
            name = f"decode_attention {_short(dtype)} {config.block_h} {config.block_t}"
            constants = {"HAS_MASK": True, "INTERPRETED": False}
            yield _spec(name, "_decode_attention_fwd_kernel", signature, config, constants)
    signature = dict.fromkeys(("mixed_ptr", "peak_ptr", "sum_ptr"), "*fp32") | {"out_ptr": "*bf16"}
    signature |= _integers("num_heads num_new num_blocks head_size")
    for joined in decode_attention.JOIN_CONFIGS:
        name = f"decode_attention joined {joined.block_h}"
        yield _spec(name, "_joined_attention_fwd_kernel", signature, joined, {"INTERPRETED": False})


def _spec(
    name: str, kernel: str, signature: dict[str, str], config: Any, constants: dict[str, Any], op: str | None = None
) -> Spec:
    """Return a configuration whose ``block_x`` fields are the kernel's ``BLOCK_X`` arguments.

    Args:
        name: begins with the op's folder, unless ``op`` is that.
        kernel, signature, config, constants: as in :class:`Spec`.
        op: folder.
    """
    blocks = {field.upper(): value for field, value in asdict(config).items() if field.startswith("block_")}
    return Spec(name, op or name.split()[0], kernel, signature, blocks | constants, config.num_warps, config.num_stages)


def _integers(names: str) -> dict[str, str]:
    return dict.fromkeys(names.split(), "i32")


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def build(spec: Spec, arch: int) -> dict[str, int]:
    """Compile one configuration and return bytes of shared memory, registers a thread, bytes spilt and of the cubin.

    And the instructions of its longest loop without another loop in it, or 0 if it has none.

    Pointers and numbers that real calls give in multiples of 16 are declared so, as Triton does when it launches.
    """
    assert os.environ.get("TRITON_INTERPRET") != "1", "the interpreter compiles nothing"
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    function = getattr(importlib.import_module(f"chexmix_cli.core.kernels.{spec.op}.kernels"), spec.kernel)
    names = list(spec.signature)
    aligned = {(names.index(name),): [["tt.divisibility", 16]] for name in names if _is_aligned(name)}
    signature = spec.signature | dict.fromkeys(spec.constants, "constexpr")
    source = ASTSource(fn=function, signature=signature, constexprs=spec.constants, attrs=aligned)
    options = {"num_warps": spec.num_warps, "num_stages": spec.num_stages}
    compiled = triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options)
    cubin = compiled.asm["cubin"]
    tools = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    used = _resources(cubin, tools / "cuobjdump")
    return {
        "shared_bytes": compiled.metadata.shared,
        "registers": used["REG"],
        "spilled_bytes": used["LOCAL"] + used["STACK"],
        "cubin_bytes": len(cubin),
        "loop_instructions": max(instruction_counts(cubin)[1], default=0),
    }


def _is_aligned(name: str) -> bool:
    return name.endswith("_ptr") or name.startswith("stride") or name in _ALIGNED


def _printed(cubin: bytes, *command: str) -> str:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        return subprocess.run([*command, file.name], check=True, capture_output=True, text=True).stdout


def instruction_counts(cubin: bytes) -> tuple[int, list[int]]:
    """Return the instructions of a cubin, and those of each of its loops without another loop in it."""
    tool = Path(importlib.import_module("triton").__file__ or "").parent / "backends" / "nvidia" / "bin" / "nvdisasm"
    labels: dict[str, int] = {}
    loops: list[tuple[int, int]] = []
    count = 0
    for line in _printed(cubin, str(tool), "-c").splitlines():
        if label := re.match(r"(\.L_x_\d+):", line.strip()):
            labels[label[1]] = count
        elif re.match(r"\s*/\*[0-9a-f]+\*/", line):
            count += 1
            jump = re.search(r"\bBRA\b.*`\((\.L_x_\d+)\)", line)
            # Backwards; the program's end jumps to itself.
            if jump and labels.get(jump[1], count) < count - 1:
                loops.append((labels[jump[1]], count))
    inner = [one for one in loops if not any(one[0] <= other[0] and other[1] < one[1] for other in loops)]
    return count, [stop - start for start, stop in inner]


def _resources(cubin: bytes, tool: Path) -> dict[str, int]:
    printed = _printed(cubin, str(tool), "--dump-resource-usage")
    line = next(line for line in printed.splitlines() if "REG:" in line)
    return {name: int(value) for name, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", line)}


def main() -> None:
    """Compile and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--out", type=Path, default=TARGET)
    parser.add_argument("--arch", type=int, nargs="+", choices=ARCHS, default=list(ARCHS))
    parser.add_argument("--only", nargs="+", choices=[spec.name for spec in specs()], metavar="NAME")
    arguments = parser.parse_args()
    import triton

    found: dict[str, Any] = {"triton": triton.__version__, "kernels": {}}
    for spec in specs():
        if arguments.only and spec.name not in arguments.only:
            continue
        found["kernels"][spec.name] = spec.recorded() | {
            "targets": {f"sm_{arch}": build(spec, arch) for arch in arguments.arch}
        }
    arguments.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    sys.stdout.write(f"wrote {arguments.out}\n")


if __name__ == "__main__":
    main()
