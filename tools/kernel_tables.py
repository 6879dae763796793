"""Write the tables of docs/kernels.md: bytes, and what compilers say (benchmarks/aot.json and inductor.json).

The counts are of memory traffic to and from the GPU's DRAM: a matrix that one kernel writes and another reads counts
twice, what stays in registers, shared memory or, below 40 MB, in the second-level cache within one kernel counts once.
``torch.compile`` is what Inductor plans (``tools/inductor_plans.py``), the better of its two ways; where it was not
asked, it is counted at its best: every chain of elementwise work and reductions over one matrix is one kernel that
reads it once, products and sorts are kernels of their own. The test suite fails while the page is stale.
Usage: python tools/kernel_tables.py
"""

from __future__ import annotations

import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
PAGE = REPOSITORY / "docs" / "kernels.md"
AOT = REPOSITORY / "benchmarks" / "aot.json"
INDUCTOR = REPOSITORY / "benchmarks" / "inductor.json"


@dataclass(frozen=True)
class Count:
    """Bytes of one call, three ways.

    Attributes:
        call: op and shape.
        kernel, compiled, eager: bytes by our kernel (or what one would need), torch.compile, plain torch.
        kept: whether the op is in the package.
    """

    call: str
    kernel: float
    compiled: float
    eager: float
    kept: bool = True


def counts() -> list[Count]:
    """Return the counts at the released model's sizes."""
    return [
        _nearest(),
        _choose(),
        _expect(),
        _score(),
        _rotary(),
        *(_quantized(bits, rows) for bits in (8, 4) for rows in (1, 9)),
        *(_restored(bits, rows) for bits in (8, 4) for rows in (72, 1027)),
        *(_attention(rows, new) for rows, new in ((1, 1), (1, 9), (8, 1))),
        _loss(),
        *_norm(),
    ]


def planned(call: str) -> int:
    """Return the bytes of a call as torch.compile plans it, with or without tuning, whichever are fewer."""
    ways = json.loads(INDUCTOR.read_text(encoding="utf-8"))["calls"][call]
    return min(int(ways["default"]["bytes"]), int(ways["tuned"]["bytes"]))


def _nearest() -> Count:
    """Return the count of one 512-pixel image: 1024 latents, 8192 codes of 256, bfloat16."""
    m, k, e, shares = 1024, 8192, 256, 16
    z, codebook, distances = 2 * m * e, 2 * k * e, 4 * m * k
    kernel = z + codebook + 2 * shares * m * 12 + 8 * m
    compiled = planned("nearest")
    # Squares and their sums by themselves; 2 z; product; sum of norms; difference; argmin.
    eager = 3 * (z + codebook) + 2 * 3 * (z + codebook) + 4 * z + 2 * (z + codebook) + 6 * distances + 8 * m
    return Count("nearest code, an image of 1024 latents, bfloat16", kernel, compiled, eager)


def _choose() -> Count:
    """Return the count of the best codes of half an image: 512 states, 8192 rows of 2560, bfloat16."""
    m, r, d, blocks = 512, 8192, 2560, 64
    read, logits = 2 * (m * d + r * d + r), 2 * m * r
    kernel = read + 2 * blocks * m * 24 + 16 * m
    compiled = planned("choose")
    # To float32; argmax; softmax (read twice, written) and its gather.
    eager = read + logits + logits + 2 * logits + 2 * logits + 3 * 2 * logits + 16 * m
    return Count("restricted head, best of 8192 rows for 512 states, bfloat16", kernel, compiled, eager)


def _expect() -> Count:
    """Return the count of the expected vectors of half an image: as above, and code vectors of 256 in float32."""
    m, r, d, e, shares = 512, 8192, 2560, 256, 8
    read, logits, codebook, out = 2 * (m * d + r * d + r), 2 * m * r, 4 * r * e, m * (4 * e + 12)
    kernel = read + codebook + 2 * shares * m * (4 * e + 20) + out
    compiled = planned("expect")
    # To float32; argmax; softmax and gather; division; softmax; product.
    eager = read + 2 * logits + 2 * logits * (1 + 1 + 3 + 2 + 3 + 1) + codebook + out
    return Count("expected code, 8192 codes for 512 states, bfloat16", kernel, compiled, eager)


def _score() -> Count:
    """Return the count of scoring a report: 200 states, 58562 rows of 2560, bfloat16."""
    m, r, d, blocks = 200, 58562, 2560, 458
    read, logits = 2 * (m * d + r * d + r), 2 * m * r
    kernel = read + 2 * blocks * m * 12 + 12 * m
    compiled = planned("score")
    # To float32; logsumexp: maximum, difference, exponential, sum.
    eager = read + logits + 3 * logits + 2 * (1 + 2 + 2 + 1) * logits + 12 * m
    return Count("restricted head, given rows of 58562 for 200 states, bfloat16", kernel, compiled, eager)


def _rotary() -> Count:
    """Return the count of one layer's prefill: 1027 tokens, 2560 hidden, two fifths of each head rotated, bfloat16."""
    values, rotated = 2 * 1027 * 2560, 0.4
    # Queries, keys and values read once, written once: queries to attention, the others to the cache.
    kernel = compiled = 6 * values
    halves = 2 * values * rotated / 2
    # Four products of halves, a sum and a difference, cat, and two copies into the cache.
    eager = 4 * 2 * halves + 2 * 3 * halves + 2 * 2 * values + 2 * 2 * values
    return Count("rotary and cache write, 1027 tokens of one layer, bfloat16", kernel, compiled, eager)


#: Numbers in both matrices of a layer, and what goes in and comes out of them for one row.
_LAYER = 17920 * 2560 + 2560 * 12800
_LAYER_ROW = 2560 + 17920 + 12800 + 2560


def _packed(bits: int) -> float:
    """Return the bytes of a layer's quantised matrices: a float32 scale a row, or a bfloat16 one a group of 32."""
    return _LAYER * bits / 8 + (4 * (17920 + 2560) if bits == 8 else 2 * _LAYER / 32)


def _unpacking(bits: int) -> float:
    """Return the bytes of ``panels.restored``, operation by operation."""
    # Of 4 bits both halves and their union; then in order, to float32, less the offset, times the scale, to bfloat16.
    return _LAYER * ((0 if bits == 8 else 2 + 2) + 2 + 5 + 8 + 8 + 6)


def _quantized(bits: int, rows: int) -> Count:
    """Return the count of both products of a layer for few rows, activations in bfloat16."""
    packed, activations = _packed(bits), 2 * rows * _LAYER_ROW
    # Of one row, with tuning, a sum that unpacks as it reads; of more, a product, whose operand is written first.
    compiled = planned(f"quantized {bits} {rows}")
    eager = _unpacking(bits) + 2 * _LAYER + activations
    name = f"quantised products of a layer, {bits} bits, {rows} row{'s' if rows > 1 else ''}, bfloat16"
    return Count(name, packed + activations, compiled, eager)


def _restored(bits: int, rows: int) -> Count:
    """Return the count of both products of a layer for many rows, drafts of eight reports or a prompt."""
    packed, activations = _packed(bits), 2 * rows * _LAYER_ROW
    # Pieces of 32 MiB are multiplied as soon as they are written, out of the second-level cache.
    compiled = packed + 2 * 2 * _LAYER + activations
    eager = _unpacking(bits) + 2 * _LAYER + activations
    return Count(
        f"restored weights of a layer, {bits} bits, {rows} rows, bfloat16", packed + activations, compiled, eager
    )


def _attention(rows: int, new: int) -> Count:
    """Return the count of a layer's attention behind 1227 positions of a cache of 1280, 32 heads of 80, bfloat16."""
    heads, size, places, blocks = 32, 80, 1280, 20
    tensors = 2 * rows * heads * size * (2 * places + 2 * new)
    mask = rows * new * places
    kernel = tensors + mask + 2 * 4 * rows * heads * blocks * new * (size + 2)
    # The mask becomes a bias in bfloat16 first, compiled or not.
    compiled = eager = tensors + mask * (1 + 2 + 2)
    return Count(f"attention to a cache, {rows} x {new} tokens, bfloat16", kernel, compiled, eager)


def _loss() -> Count:
    """Return the count of the head's loss and gradients: a micro-batch of 4 x 1091 tokens, bfloat16, one chunk."""
    m, v, d = 4 * 1091, 58562, 2560
    logits = 2 * m * v
    # States and their gradient, the matrix twice, and its gradient in float32.
    operands = 2 * 3 * m * d + 2 * 2 * v * d + 4 * v * d
    # Written with their sums, and read by the products of both gradients, which make gradients of them.
    kernel = operands + 3 * logits
    # Written; the maximum; the sum; gradients (read and written); three products.
    compiled = operands + 7 * logits
    # Bias 2, maximum 1, to float32 3, difference 4, exponential 4, sum 2, back 3.
    eager = operands + (1 + 2 + 1 + 3 + 4 + 4 + 2 + 3 + 3) * logits
    return Count(
        "loss and gradients of the head, 4364 tokens of 58562 ids, bfloat16", kernel, compiled, eager, kept=False
    )


def _norm() -> list[Count]:
    """Return the counts of the VQGAN's widest norm: 128 channels of 512 x 512, bfloat16; and of learning it."""
    values = 2 * 128 * 512 * 512
    name = "GroupNorm and swish, 128 x 512 x 512, bfloat16"
    # Statistics read it, the other pass reads and writes it: a group is 2 MiB and stays on no multiprocessor. Backward
    # two sums of gradient and input, then both again and the result; eager swish has a pass of its own, of three.
    return [
        Count(name, 3 * values, 3 * values, 5 * values, kept=False),
        Count(f"{name}, forward and backward", 8 * values, 8 * values, 13 * values, kept=False),
    ]


def traffic_table() -> str:
    """Return the counts as a table."""
    lines = [
        "| call | kernel, MB | torch.compile, MB | eager, MB | torch.compile / kernel | |",
        "|---|---|---|---|---|---|",
    ]
    for count in counts():
        sizes = " | ".join(f"{value / 1e6:.1f}" for value in (count.kernel, count.compiled, count.eager))
        verdict = "kept" if count.kept else "dropped"
        lines.append(f"| {count.call} | {sizes} | {count.compiled / count.kernel:.1f} | {verdict} |")
    return "\n".join(lines)


def plan_table() -> str:
    """Return what torch.compile makes of the references: kernels and bytes, and instructions of a thread a number."""
    found = json.loads(INDUCTOR.read_text(encoding="utf-8"))
    names = {
        "nearest": "nearest code, by distance",
        "choose": "restricted head, best of 8192 rows, by logit",
        "expect": "expected code, by logit",
        "score": "restricted head, given rows of 58562, by logit",
        "rotary": "rotary and cache write, by number of queries, keys and values",
        **{
            f"quantized {bits} {rows}": f"quantised products, {bits} bits, {count}, by weight"
            for bits in (8, 4)
            for rows, count in ((1, "1 row"), (9, "9 rows"))
        },
    }
    lines = ["| call | kernels | of them products | MB | instructions a number |", "|---|---|---|---|---|"]
    for call, row in found["calls"].items():
        ways = {"": row["default"]} | ({", tuned": row["tuned"]} if row["tuned"] != row["default"] else {})
        for word, way in ways.items():
            cells = f"{way['kernels']} | {way['products']} | {way['bytes'] / 1e6:.1f}"
            lines.append(f"| {names[call]}{word} | {cells} | {way['instructions'] / row['numbers']:.1f} |")
    return "\n".join([f"torch {found['torch']}, Triton {found['triton']}, sm_90.", "", *lines])


def aot_table() -> str:
    """Return what the compiler found as a table: registers / shared memory in KiB, a column a target."""
    table = json.loads(AOT.read_text(encoding="utf-8"))
    targets = list(next(iter(table["kernels"].values()))["targets"])
    lines = [f"| kernel | {' | '.join(targets)} | spilled |", "|---|" + "---|" * (len(targets) + 1)]
    for name, row in table["kernels"].items():
        found = [row["targets"][target] for target in targets]
        cells = [f"{needs['registers']} / {needs['shared_bytes'] / 1024:.0f}" for needs in found]
        lines.append(f"| {name} | {' | '.join(cells)} | {sum(needs['spilled_bytes'] for needs in found)} |")
    return "\n".join([f"Triton {table['triton']}; registers a thread / shared memory in KiB.", "", *lines])


def instruction_table() -> str:
    """Return the instructions that a weight costs in the loop of the quantised products: a column a target."""
    table = json.loads(AOT.read_text(encoding="utf-8"))["kernels"]
    rows = {name: row for name, row in table.items() if name.startswith("quantized_product")}
    targets = list(next(iter(rows.values()))["targets"])
    lines = [f"| kernel | {' | '.join(targets)} |", "|---|" + "---|" * len(targets)]
    for name, row in rows.items():
        sizes = row["constants"]
        share = 32 * sizes["num_warps"] / (32 * sizes["BLOCK_G"] * 16 * sizes["BLOCK_P"])
        cells = " | ".join(f"{row['targets'][target]['loop_instructions'] * share:.1f}" for target in targets)
        lines.append(f"| {name.removeprefix('quantized_product ')} | {cells} |")
    return "\n".join(lines)


def page(text: str) -> str:
    """Return the page with its tables written anew."""
    tables = {
        "traffic": traffic_table(),
        "plans": plan_table(),
        "instructions": instruction_table(),
        "aot": aot_table(),
    }
    for name, table in tables.items():
        pattern = rf"(<!-- {name}: tools/kernel_tables.py -->\n).*?(<!-- end -->)"
        # The table is no pattern: a backslash in it would mean something.
        escaped = table.replace("\\", r"\\")
        text, found = re.subn(pattern, rf"\g<1>{escaped}\n\g<2>", text, flags=re.DOTALL)
        assert found == 1, name
    return text


def main() -> None:
    """Write the page."""
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    sys.stdout.write(f"wrote {PAGE}\n")


if __name__ == "__main__":
    main()
