"""Every command and every training on a pretended GPU, the first and the second of two: the CPU's results, and counts.

A card makes mistakes visible that a CPU forgives: tensors of two devices, a graph recorded on the wrong one, a wait for
the device in a loop. ``pretended.py`` is such a card as far as that goes. The counts of waits, copies, launches and
recordings are kept in ``counts.json``: a change that costs more shows there. After a change that is meant to::

    CHEXMIX_CARD_COUNTS=renew pytest tests/card
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
COUNTS = HERE / "counts.json"
GROUPS = ("inference", "training")


def run(group: str, guard: Path, weights: Path, folder: Path) -> dict[str, Any]:
    environment = {**os.environ, "CHEXMIX_CARD_GUARD": str(guard), "CHEXMIX_KERNELS": "auto"}
    environment["PYTHONPATH"] = os.pathsep.join((str(HERE.parents[1]), str(HERE)))
    done = subprocess.run(
        [sys.executable, str(HERE / "program.py"), group, str(weights), str(folder)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("group", GROUPS)
def test_a_card_gives_what_the_cpu_gives_at_the_known_cost(group, guard, debug_weights, tmp_path):
    found = run(group, guard, debug_weights, tmp_path)
    for name, devices in found.items():
        for device, result in devices.items():
            assert result["problem"] is None, f"{name} on {device}"
        first, second = (result["counts"] for result in devices.values())
        assert first == second, f"{name}: the second card costs something else"
    counts = {name: devices["cuda:0"]["counts"] for name, devices in found.items()}
    known = json.loads(COUNTS.read_text()) if COUNTS.exists() else {}
    if os.environ.get("CHEXMIX_CARD_COUNTS") == "renew":
        COUNTS.write_text(json.dumps({**known, group: counts}, indent=2, sort_keys=True) + "\n")
        return
    for name in counts.keys() | known[group].keys():
        where = "; ".join(found[name]["cuda:0"].get("sites", [])[:12]) if name in found else ""
        assert counts.get(name) == known[group].get(name), f"{name}: other counts than counts.json ({where})"
