"""Run commands on the CPU and on the pretended card, and say how they compare; started by test_card.py.

usage: python program.py GROUP WEIGHTS FOLDER    prints one JSON object: scenario -> device -> what was found
"""

from __future__ import annotations

import json
import os
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import pretended
import pretended_cuda
import torch
from compared import MismatchError, compare, run, write_films
from parts import PARTS
from scenarios import GROUPS, Scenario

DEVICES = [f"cuda:{index}" for index in range(pretended_cuda.DEVICES)]
#: What is counted, in the order of counts.json.
KINDS = ("waits", "pageable copies", "pinned copies", "launches", "captures", "replays")


def main(group: str, weights: str, folder: Path) -> dict[str, Any]:
    write_films(folder)
    pretended_cuda.use_references()
    found = {scenario.name: held_against_cpu(scenario, weights, folder) for scenario in GROUPS[group]}
    for name, check in PARTS.items() if group == "inference" else ():
        found[name] = {}
        for device in DEVICES:
            pretended.reset()
            found[name][device] = check(weights, device)
    return found


def held_against_cpu(scenario: Scenario, weights: str, folder: Path) -> dict[str, Any]:
    """Return for each device how a scenario there differs from the CPU (``problem``: None if not), and the counts."""
    expected = run(scenario, "cpu", weights, folder, pretended.reset)
    found: dict[str, Any] = {}
    for device in DEVICES:
        problem, started = None, time.process_time()
        try:
            with pretended.Card():
                result = run(scenario, device, weights, folder, pretended.reset)
            compare(expected, result, scenario.name)
        except MismatchError as error:
            problem = str(error)
        sites = [f"{count} {kind} {where}" for (kind, where), count in pretended.SITES.most_common()]
        counts = {kind: pretended.COUNTS[kind] for kind in KINDS if pretended.COUNTS[kind]}
        found[device] = {"problem": problem, "counts": counts, "sites": sites, "cpu_s": time.process_time() - started}
    return found


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    os.environ["CHEXMIX_HOME"] = sys.argv[3] + "/home"
    from chexmix_cli.core.train import loop

    loop.write_curves = lambda records, path, **marks: None  # slower than all the steps
    loop.flop_rate = lambda dtype, device: 1e12  # of a pretended card, it says nothing
    json.dump(main(sys.argv[1], sys.argv[2], Path(sys.argv[3])), sys.stdout)
