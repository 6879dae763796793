"""What torch.compile makes of the references is what benchmarks/inductor.json says it is: one call, planned again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

REPOSITORY = Path(__file__).resolve().parents[2]
TABLE = json.loads((REPOSITORY / "benchmarks" / "inductor.json").read_text(encoding="utf-8"))


def test_a_plan_is_the_recorded_one(guard, tmp_path):
    triton = pytest.importorskip("triton")
    versions = torch.__version__.partition("+")[0], triton.__version__
    if versions != (TABLE["torch"], TABLE["triton"]):
        pytest.skip(f"the table is of torch {TABLE['torch']} and Triton {TABLE['triton']}, these are {versions}")
    environment = {**os.environ, "CHEXMIX_CARD_GUARD": str(guard), "PYTHONPATH": str(REPOSITORY)}
    environment |= {"TRITON_CACHE_DIR": str(tmp_path / "triton"), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "inductor")}
    target = tmp_path / "again.json"
    command = [sys.executable, "tools/inductor_plans.py", "-o", str(target), "--only", "quantized 8 1"]
    done = subprocess.run(command, check=False, cwd=REPOSITORY, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(target.read_text(encoding="utf-8"))["calls"]["quantized 8 1"] == TABLE["calls"]["quantized 8 1"]
