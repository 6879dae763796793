"""Write the tables of docs/reliability.md from what `make faults`, `make soak` and `make fuzz` took note of in build/.

Usage: python tools/reliability_tables.py

A table whose notes are not there stays as it is, and so does the row of a parser or of a part.
The picture of long runs needs all of them.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from chexmix_cli.core.evals.result import Curve, Series
from chexmix_cli.core.present.plots import panels_png

REPOSITORY = Path(__file__).resolve().parents[1]
PAGE = REPOSITORY / "docs" / "reliability.md"
PICTURE = REPOSITORY / "docs" / "images" / "soak.png"
FAULTS, SOAK, FUZZ = (REPOSITORY / "build" / name for name in ("faults.jsonl", "soak", "fuzz"))
#: Parts of a long run, in the order of the table.
_PARTS = ("tokenize", "classify", "generate-report", "serve")
_MIB = 1024
#: A line of a picture has about so many points.
_POINTS = 200

Cells = Mapping[tuple[str, str], Mapping[str, Any]]
Found = Mapping[str, Any]


def fault_table(notes: str) -> str:
    """Return the table of commands and faults, the reasons of cells that make no sense, and the counts.

    Args:
        notes: a line of JSON a cell; of a cell that was run again, the last counts.
    """
    lines = [json.loads(line) for line in notes.splitlines()]
    cells: Cells = {(line["command"], line["fault"]): line for line in lines}
    commands, faults = (list(dict.fromkeys(key[place] for key in cells)) for place in (0, 1))
    reasons = list(dict.fromkeys(cell["reason"] for cell in cells.values() if "reason" in cell))
    letters = {reason: chr(ord("a") + number) for number, reason in enumerate(reasons)}
    rows = []
    for fault in faults:
        found = [cells.get((command, fault)) for command in commands]
        rows.append([fault, *("not run" if cell is None else _text(cell, letters) for cell in found)])
    run = [cell for cell in cells.values() if "reason" not in cell]
    again = [cell for cell in run if cell["is_given_again"]]
    kept = [cell for cell in again if cell["num_kept"]]
    said = "; ".join(f"{letter} {reason}" for reason, letter in letters.items())
    counts = (
        f"{len(run)} cells run; {len(cells) - len(run)} make no sense ({said}). In {len(again)} the command was "
        f"given again, and in {len(kept)} of these it went on behind what was done."
    )
    return f"{markdown(['', *commands], rows)}\n{counts}\n"


def _text(cell: Mapping[str, Any], letters: Mapping[str, str]) -> str:
    """Return a cell: exit code, and behind a comma how much was there when the command was given again."""
    if "reason" in cell:
        return letters[cell["reason"]]
    kept = f", {cell['num_kept']}" if cell["is_given_again"] and cell["num_kept"] else ""
    return f"{cell['code']}{kept}".replace("-", "−")


def fuzz_table(parsers: Sequence[Found], before: str) -> str:
    """Return the table of parsers and damaged inputs, and the sum.

    Args:
        parsers: what came of those that were run.
        before: the page's table, whose rows of other parsers stay, and whose lines reached where none were counted now.
    """
    names = ["parser", "inputs", "accepted", "refused", "findings", "lines reached", "CPU s", "peak MiB"]
    found = [
        [cell.strip() for cell in line.strip("| ").split(" | ")] for line in before.splitlines() if line[:1] == "|"
    ]
    rows = {row[0]: row for row in found[2:]}
    for one in sorted(parsers, key=lambda one: one["place"]):
        name, lines = one["name"], one.get("lines")
        refused = sorted(one["refused"].items(), key=lambda pair: -pair[1])
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in refused)
        counts = [f"{one['inputs']:,}", f"{one['accepted']:,}", reasons, str(len(one["findings"]))]
        reached = f"{lines['reached'] / lines['lines']:.0%} of {lines['lines']:,}" if lines else rows[name][5]
        rows[name] = [name, *counts, reached, f"{one['cpu_s']:,.0f}", f"{one['peak_bytes'] / 2**20:.0f}"]
    inputs, findings = (sum(int(row[place].replace(",", "")) for row in rows.values()) for place in (1, 4))
    return f"{markdown(names, list(rows.values()))}\n{inputs:,} inputs, {findings} findings.\n"


def fuzzed(path: Path) -> Found:
    """Return what came of a parser, with the lines that its inputs reach where they were counted."""
    lines = path.parent / "lines" / path.name
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return {**found, "lines": json.loads(lines.read_text(encoding="utf-8"))} if lines.exists() else found


def soak_table(parts: Sequence[Found], before: str) -> str:
    """Return the table of long runs; the page's rows of other parts stay."""
    rows = rows_of(before)
    for one in parts:
        growth = one["growth"]
        others = [growth[name] for name in ("handles", "threads", "temporaries")]
        wanted = "" if one["wanted"] in (None, one["done"]) else f" of {one['wanted']:,}"
        kept = [_mib(growth["resident_kib"]), _mib(growth.get("anonymous_kib"))]
        held = [f"{other['second']:g} → {other['last']:g}" for other in others]
        is_flat = "yes" if all(figure["is_flat"] for figure in growth.values()) else "no"
        spent = [f"{one['cpu_s']:,.0f}", f"{one['seconds'] / 60:.0f}"]
        name = f"`{one['part']}`"
        row = [name, f"{one['done']:,}{wanted} {one['work']}", *kept, *held, is_flat]
        rows[name] = [*row, str(len(one["different"])), *spent]
    names = ["", "done", "resident MiB", "anonymous MiB", "handles", "threads", "temporary files", "flat", "differ"]
    return markdown([*names, "CPU s", "minutes"], list(rows.values()))


def rows_of(table: str) -> dict[str, list[str]]:
    """Return name -> row of a table on the page, without the blanks at its ends."""
    lines = [line.strip().removeprefix("|").removesuffix("|").strip() for line in table.splitlines() if line[:1] == "|"]
    return {row[0]: row for row in (line.split(" | ") for line in lines[2:])}


def _mib(figure: Found | None) -> str:
    """Return the medians of the second and the last fifth, and what the robust line rises by."""
    if figure is None:
        return "not sampled"
    return f"{figure['second'] / _MIB:.1f} → {figure['last'] / _MIB:.1f} ({figure['rise'] / _MIB:+.2f})"


def soak_picture(parts: Sequence[Found]) -> bytes:
    """Return memory and handles over the work done, as PNG."""
    panels = []
    for name, title, column, unit in (("memory", "Resident memory", 2, _MIB), ("handles", "Open handles", 3, 1)):
        lines = []
        for part in parts:
            end = part["samples"][-1][0]
            # While it works: a process that begins or ends holds less, and the axis would be for that.
            samples = [sample for sample in part["samples"] if 0 < sample[0] < end]
            samples = samples[:: -(-len(samples) // _POINTS)]
            done = [100 * sample[0] / end for sample in samples]
            lines.append(Series(name=part["part"], x=done, y=[sample[column] / unit for sample in samples]))
        label = "MiB" if unit == _MIB else "handles"
        panels.append(Curve(name=name, title=title, x_label="films or answers, % of all", y_label=label, series=lines))
    return panels_png(panels)


def markdown(names: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table."""
    lines = (" | ".join(row) for row in (names, ["---"] * len(names), *rows))
    return "".join(f"| {line} |\n" for line in lines)


def page(text: str, name: str, table: str) -> str:
    """Return the page with a table in its place."""
    found = place_of(text, name)
    return f"{text[: found.start(2)]}{table}{text[found.end(2) :]}"


def place_of(text: str, name: str) -> re.Match[str]:
    """Return where a table stands on the page, its text as the second group."""
    found = list(re.finditer(rf"(<!-- {name}: tools/\w+.py -->\n)(.*?)(<!-- end -->)", text, re.DOTALL))
    if len(found) != 1:
        raise SystemExit(f"{PAGE} has no place for {name}")
    return found[0]


def main() -> None:
    """Write the page and its picture."""
    text = PAGE.read_text(encoding="utf-8")
    if FAULTS.exists():
        text = page(text, "faults", fault_table(FAULTS.read_text(encoding="utf-8")))
    if parsers := [fuzzed(path) for path in FUZZ.glob("*.json")]:
        text = page(text, "fuzz", fuzz_table(parsers, place_of(text, "fuzz")[2]))
    paths = (SOAK / f"{part}.json" for part in _PARTS)
    if parts := [json.loads(path.read_text(encoding="utf-8")) for path in paths if path.exists()]:
        text = page(text, "soak", soak_table(parts, place_of(text, "soak")[2]))
        if len(parts) == len(_PARTS):
            PICTURE.write_bytes(soak_picture(parts))
    PAGE.write_text(text, encoding="utf-8")
    sys.stdout.write(f"wrote {PAGE}\n")


if __name__ == "__main__":
    main()
