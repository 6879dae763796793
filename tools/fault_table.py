"""Write the table of commands and faults of docs/reliability.md from what `make faults` took note of.

Usage: python tools/fault_table.py
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
PAGE = REPOSITORY / "docs" / "reliability.md"
NOTED = REPOSITORY / "build" / "faults.jsonl"

Cells = Mapping[tuple[str, str], Mapping[str, Any]]


def read_cells(path: Path) -> Cells:
    """Return what came of each command under each fault; of a cell that was run again, the last."""
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return {(line["command"], line["fault"]): line for line in lines}


def table(cells: Cells) -> str:
    """Return the table, the reasons of cells that make no sense, and the counts."""
    commands, faults = (list(dict.fromkeys(key[place] for key in cells)) for place in (0, 1))
    reasons = list(dict.fromkeys(cell["reason"] for cell in cells.values() if "reason" in cell))
    letters = {reason: chr(ord("a") + number) for number, reason in enumerate(reasons)}
    rows = [["", *commands], ["---"] * (1 + len(commands))]
    for fault in faults:
        found = [cells.get((command, fault)) for command in commands]
        rows.append([fault, *("not run" if cell is None else _text(cell, letters) for cell in found)])
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    run = [cell for cell in cells.values() if "reason" not in cell]
    again = [cell for cell in run if cell["is_given_again"]]
    kept = [cell for cell in again if cell["num_kept"]]
    said = "; ".join(f"{letter} {reason}" for reason, letter in letters.items())
    counts = (
        f"{len(run)} cells run; {len(cells) - len(run)} make no sense ({said}). In {len(again)} the command was "
        f"given again, and in {len(kept)} of these it went on behind what was done."
    )
    return "\n".join([*lines, "", counts]) + "\n"


def _text(cell: Mapping[str, Any], letters: Mapping[str, str]) -> str:
    """Return a cell: exit code, and behind a comma how much was there when the command was given again."""
    if "reason" in cell:
        return letters[cell["reason"]]
    kept = f", {cell['num_kept']}" if cell["is_given_again"] and cell["num_kept"] else ""
    return f"{cell['code']}{kept}".replace("-", "−")


def page(text: str, cells: Cells) -> str:
    """Return the page with the table in its place."""
    found, count = re.subn(
        r"(<!-- faults: tools/fault_table.py -->\n).*?(<!-- end -->)",
        lambda match: f"{match[1]}{table(cells)}{match[2]}",
        text,
        flags=re.DOTALL,
    )
    if count != 1:
        raise SystemExit(f"{PAGE} has no place for the table")
    return found


def main() -> None:
    """Write the page."""
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8"), read_cells(NOTED)), encoding="utf-8")
    sys.stdout.write(f"wrote {PAGE}\n")


if __name__ == "__main__":
    main()
