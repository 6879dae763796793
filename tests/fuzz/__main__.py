"""``python tests/fuzz --inputs 100000``: damaged inputs for every parser, and what came of them.

What came of a parser is kept in build/fuzz/PARSER.json while it runs; a parser goes on behind the inputs that it has
had. tools/reliability_tables.py makes a table of it.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

# Before numpy and torch are loaded: a worker is one process with little memory.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS"):
    os.environ[_name] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["CHEXMIX_ID_SALT"] = "a salt for tests"

if any(argument.startswith("--guided") for argument in sys.argv):
    try:
        import guided  # instruments what it imports: first of all
    except ImportError:
        sys.exit(f"hint: {sys.executable} -m pip install atheris==3.0.0")

if "--coverage" in sys.argv:
    try:
        import lines_reached
    except ImportError:
        sys.exit(f"hint: {sys.executable} -m pip install coverage==7.17.5")

from harness import IN_MEMORY, Outcome, damaged, fuzz  # noqa: E402
from parsers import PARSERS, Parser  # noqa: E402

#: A file a parser; the corpora of guided runs lie beside them.
RESULTS = Path("build/fuzz")
#: And how much of each parser its inputs reach.
LINES = RESULTS / "lines"


def main() -> int:
    """Run what the arguments say; 1 if there is a finding."""
    arguments = argparse.ArgumentParser(prog="python tests/fuzz", description=__doc__)
    arguments.add_argument("--inputs", type=int, default=2000, help="of each parser")
    arguments.add_argument(
        "--first", type=int, help="number of the first, to make it again: every number is one input, always"
    )
    arguments.add_argument("--seconds", type=float, default=float("inf"), help="most of each parser")
    arguments.add_argument("--parsers", default="", help="a regular expression; default: all")
    arguments.add_argument("--keep", type=Path, help="folder for the inputs of findings")
    arguments.add_argument("--lies", action="store_true", help="the table of files that lie, and nothing else")
    arguments.add_argument("--guided", metavar="PARSER", help="one parser, by its name, led by coverage (atheris)")
    arguments.add_argument("--coverage", action="store_true", help="count the lines that inputs reach, and no more")
    asked = arguments.parse_args()
    if asked.lies:
        return _lies()
    if asked.guided:
        keep = asked.keep or RESULTS / _file_name(asked.guided)
        guided.main(asked.guided, asked.inputs, keep)
    found = []
    for place, parser in enumerate(PARSERS):
        if not re.search(asked.parsers, parser.name, re.IGNORECASE):
            continue
        folder = Path(tempfile.mkdtemp(prefix="chexmix-fuzz-", dir=IN_MEMORY))
        try:
            os.environ["CHEXMIX_HOME"] = str(folder / "home")
            if asked.coverage:
                counts = lines_reached.lines_reached(parser, folder / "work", asked.inputs)
                print(f"{parser.name}: {counts['reached']} of {counts['lines']} lines", flush=True)
                _write(LINES / f"{_file_name(parser.name)}.json", counts)
                continue
            outcome = _run(place, parser, folder / "work", asked)
            print(f"{parser.name}: {outcome.inputs} inputs, {len(outcome.findings)} findings", flush=True)
            found += [f"{parser.name}, {text}" for text in outcome.findings]
            if asked.keep and outcome.findings:
                _keep(asked.keep, parser, folder / "again", outcome.findings)
        finally:
            shutil.rmtree(folder)
    for text in found:
        print(text, file=sys.stderr)
    return 1 if found else 0


def _run(place: int, parser: Parser, folder: Path, asked: argparse.Namespace) -> Outcome:
    """Give a parser the inputs that it has not had, or those from a number on; only the former are kept."""
    if asked.first is not None:
        numbers = range(asked.first, asked.first + asked.inputs)
        return fuzz(parser, folder, numbers, max_seconds=asked.seconds)
    kept = RESULTS / f"{_file_name(parser.name)}.json"

    def keep(outcome: Outcome) -> None:
        _write(kept, {"place": place, "date": time.strftime("%Y-%m-%d"), **vars(outcome)})

    before = json.loads(kept.read_text()) if kept.exists() else {"name": parser.name}
    had = Outcome(**{name: value for name, value in before.items() if name not in ("place", "date")})
    had.refused = Counter(had.refused)
    if had.inputs < asked.inputs:
        numbers = range(had.inputs, asked.inputs)
        keep(fuzz(parser, folder, numbers, max_seconds=asked.seconds, outcome=had, keep=keep))
    return had


def _write(path: Path, values: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    written = path.with_suffix(".partial")
    written.write_text(json.dumps(values) + "\n")
    written.replace(path)


def _lies() -> int:
    from film_lies import LIES as FILM_LIES
    from lies import forget_sound_files, table
    from stored_lies import LIES as STORED_LIES

    try:
        for line in table((*STORED_LIES, *FILM_LIES)):
            print(line, flush=True)
    finally:
        forget_sound_files()
    return 0


def _file_name(parser: str) -> str:
    return re.sub(r"\W+", "-", parser)


def _keep(target: Path, parser: Parser, folder: Path, findings: list[str]) -> None:
    targets = parser.seeds(folder)
    seeds = [path.read_bytes() for path in targets]
    for text in findings:
        number = int(text.split()[1].rstrip(":"))
        place, data, _ = damaged(seeds, parser, number)
        path = target / _file_name(parser.name) / f"{number}-{targets[place].name}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


if __name__ == "__main__":
    sys.exit(main())
