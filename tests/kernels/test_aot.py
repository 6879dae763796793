"""What kernels need on a GPU, compiled without one: the committed table is of these kernels, and nothing spills."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
AOT = runpy.run_path(str(REPOSITORY / "tools" / "aot.py"))
TABLE = json.loads((REPOSITORY / "benchmarks" / "aot.json").read_text(encoding="utf-8"))
#: Quick to compile.
SOME = ["nearest_code float32", "quantized_product int8 bfloat16 wide 8", "rotary_cache bfloat16 128"]


def stale(table: dict[str, Any]) -> list[str]:
    """Return the names that stand on one side only, or with other blocks or another source of the kernel."""
    expected = {spec.name: spec.recorded() for spec in AOT["specs"]()}
    recorded = {
        name: {field: value for field, value in row.items() if field != "targets"}
        for name, row in table["kernels"].items()
    }
    return [name for name in expected | recorded if expected.get(name) != recorded.get(name)]


def test_the_table_is_of_these_kernels_with_these_blocks():
    assert stale(TABLE) == [], "make aot writes it anew"
    assert {tuple(row["targets"]) for row in TABLE["kernels"].values()} == {("sm_80", "sm_90", "sm_100")}


def test_a_stale_table_is_seen():
    changed = json.loads(json.dumps(TABLE))
    name = next(iter(changed["kernels"]))
    changed["kernels"][name]["constants"]["num_warps"] += 1
    assert stale(changed) == [name]


def test_nothing_spills_and_everything_fits():
    for name, row in TABLE["kernels"].items():
        for target, needs in row["targets"].items():
            assert needs["spilled_bytes"] == 0, f"{name} on {target}"
            assert needs["registers"] <= 255
            assert needs["shared_bytes"] <= AOT["SHARED_LIMIT"][int(target.removeprefix("sm_"))], f"{name} on {target}"


def test_compiled_again_some_need_what_the_table_says(tmp_path):
    triton = pytest.importorskip("triton")
    if triton.__version__ != TABLE["triton"]:
        pytest.skip(f"the table is of Triton {TABLE['triton']}, and this is {triton.__version__}")
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {"TRITON_CACHE_DIR": str(tmp_path / "cache"), "PYTHONPATH": str(REPOSITORY)}
    target = tmp_path / "again.json"
    command = [sys.executable, "tools/aot.py", "-o", str(target), "--arch", "90", "--only", *SOME]
    subprocess.run(command, check=True, cwd=REPOSITORY, env=environment, capture_output=True)
    again = json.loads(target.read_text(encoding="utf-8"))["kernels"]
    assert sorted(again) == sorted(SOME)
    for name, row in again.items():
        assert row["targets"]["sm_90"] == TABLE["kernels"][name]["targets"]["sm_90"], name
