"""Write the table of what is the same across what of docs/reliability.md from what `make determinism` took note of.

Usage: python tools/determinism_table.py
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from record_outputs import RULES
from reliability_tables import PAGE, REPOSITORY, page

sys.path.insert(0, str(REPOSITORY))

from tests.determinism.commands import AXES, COMMANDS, IDS  # noqa: E402

NOTED = REPOSITORY / "build" / "determinism.jsonl"

Cells = Mapping[tuple[str, str], Mapping[str, Any]]


def read_cells(path: Path) -> Cells:
    """Return what came of each command in each way; of a cell that was run again, the last."""
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return {(line["command"], line["axis"]): line for line in lines}


def table(cells: Cells) -> str:
    """Return the table, the reasons where there is no cell, what may differ, and the counts."""
    reasons = list(dict.fromkeys(way for one in COMMANDS for way in one.ways.values() if isinstance(way, str)))
    letters = {reason: chr(ord("a") + number) for number, reason in enumerate(reasons)}
    rows = [["", *AXES], ["---"] * (1 + len(AXES))]
    for command in COMMANDS:
        ways = [command.ways.get(axis) for axis in AXES]
        found = [cells.get((command.name, axis)) for axis in AXES]
        told = [letters[way] if isinstance(way, str) else _text(cell) for way, cell in zip(ways, found, strict=True)]
        rows.append([command.name, *told])
    said = "; ".join(f"{letter} {reason}" for reason, letter in letters.items())
    num_ways = sum(cell["num_ways"] for cell in cells.values())
    return "\n".join(
        [
            *("| " + " | ".join(row) + " |" for row in rows),
            "",
            f"{len(cells)} cells run, {num_ways} ways in all. No cell, and why: {said}.",
            "",
            f"May differ (`RULES` in `tools/record_outputs.py`): {'; '.join(RULES)}.",
            "",
        ]
    )


def _text(cell: Mapping[str, Any] | None) -> str:
    """Return a cell: ``bytes``, or ``ids`` and the largest difference of two numbers."""
    if cell is None:
        return "not run"
    return f"{cell['holds']}, {cell['difference']:.0g}" if cell["holds"] == IDS else str(cell["holds"])


def main() -> None:
    """Write the page."""
    text = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(page(text, "determinism", table(read_cells(NOTED))), encoding="utf-8")
    sys.stdout.write(f"wrote {PAGE}\n")


if __name__ == "__main__":
    main()
