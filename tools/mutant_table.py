"""Write the table of mutants of docs/reliability.md from what `make mutants` left.

Usage: python tools/mutant_table.py
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from reliability_tables import PAGE, REPOSITORY, markdown, page

MUTANTS = REPOSITORY / "mutants"

#: Exit statuses of the tests of a mutant, as mutmut keeps them; of those that never end, its own and a signal's.
_KILLED, _SURVIVED, _TIMED_OUT, _UNTESTED = (1, 3), (0,), (-24, 24, 36, 152, 255), (5, 33)
_HEAD = ("module", "mutants", "killed", "of these by time", "survived", "in no test", "share killed")


def row(path: Path) -> list[str]:
    """Return the cells of a module; SystemExit if a mutant has not been run, or in a way that is not known."""
    module = path.relative_to(MUTANTS / "chexmix_cli").with_suffix("").as_posix()
    codes = list(json.loads(path.read_text(encoding="utf-8"))["exit_code_by_key"].values())
    by_tests, survived, by_time, untested = (
        sum(code in kind for code in codes) for kind in (_KILLED, _SURVIVED, _TIMED_OUT, _UNTESTED)
    )
    killed = by_tests + by_time
    if killed + survived + untested != len(codes):
        raise SystemExit(f"{module}: {len(codes) - killed - survived - untested} mutants have no result")
    numbers = (len(codes), killed, by_time, survived, untested)
    return [f"`{module}`", *(str(number) for number in numbers), f"{killed / len(codes):.1%}"]


def main() -> None:
    """Write the page."""
    rows = [row(path) for path in sorted(MUTANTS.rglob("*.meta"))]
    text = page(PAGE.read_text(encoding="utf-8"), "mutants", markdown(_HEAD, rows))
    PAGE.write_text(text, encoding="utf-8")
    sys.stdout.write(f"wrote {PAGE}\n")


if __name__ == "__main__":
    main()
