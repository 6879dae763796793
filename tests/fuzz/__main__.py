"""``python tests/fuzz --inputs 100000``: damaged inputs for every parser, and a table of what came of them."""

from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path

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

from harness import HEAD, damaged, fuzz  # noqa: E402
from parsers import PARSERS  # noqa: E402


def main() -> int:
    """Run what the arguments say; 1 if there is a finding."""
    arguments = argparse.ArgumentParser(prog="python tests/fuzz", description=__doc__)
    arguments.add_argument("--inputs", type=int, default=2000, help="of each parser")
    arguments.add_argument(
        "--first", type=int, default=0, help="number of the first: every number is one input, always"
    )
    arguments.add_argument("--seconds", type=float, default=float("inf"), help="most of each parser")
    arguments.add_argument("--parsers", default="", help="a regular expression; default: all")
    arguments.add_argument("--keep", type=Path, help="folder for the inputs of findings")
    arguments.add_argument("--lies", action="store_true", help="the table of files that lie, and nothing else")
    arguments.add_argument("--guided", metavar="PARSER", help="one parser, by its name, led by coverage (atheris)")
    asked = arguments.parse_args()
    if asked.lies:
        return _lies()
    if asked.guided:
        keep = asked.keep or Path("build/fuzz") / re.sub(r"\W+", "-", asked.guided)
        guided.main(asked.guided, asked.inputs, keep)
    chosen = [parser for parser in PARSERS if re.search(asked.parsers, parser.name, re.IGNORECASE)]
    print(HEAD, flush=True)
    found, numbers = [], range(asked.first, asked.first + asked.inputs)
    for parser in chosen:
        folder = Path(tempfile.mkdtemp(prefix="chexmix-fuzz-"))
        try:
            os.environ["CHEXMIX_HOME"] = str(folder / "home")
            outcome = fuzz(parser, folder / "work", numbers, max_seconds=asked.seconds)
            print(outcome.line(), flush=True)
            found += [f"{parser.name}, {text}" for text in outcome.findings]
            if asked.keep and outcome.findings:
                _keep(asked.keep, parser, folder / "again", outcome.findings)
        finally:
            shutil.rmtree(folder)
    for text in found:
        print(text, file=sys.stderr)
    return 1 if found else 0


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


def _keep(target: Path, parser: object, folder: Path, findings: list[str]) -> None:
    targets = parser.seeds(folder)  # type: ignore[attr-defined]
    seeds = [path.read_bytes() for path in targets]
    for text in findings:
        number = int(text.split()[1].rstrip(":"))
        place, data, _ = damaged(seeds, parser, number)  # type: ignore[arg-type]
        name = re.sub(r"\W+", "-", parser.name)  # type: ignore[attr-defined]
        path = target / name / f"{number}-{targets[place].name}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


if __name__ == "__main__":
    sys.exit(main())
