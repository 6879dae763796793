"""Coverage-guided fuzzing of one parser by atheris: inputs that reach new lines of ours are damaged further."""

from __future__ import annotations

import random
import resource
import shutil
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["chexmix_cli"]):
    from damage import change
    from harness import LIMIT_BYTES, LIMIT_CPU_S, judge
    from parsers import PARSERS


class FindingError(Exception):
    """What libFuzzer stops at and keeps the input of."""


def main(name: str, num_inputs: int, keep: Path) -> None:
    """Fuzz a parser until a finding, or so many inputs; ends the process. A corpus grows in ``keep``."""
    parser = next(parser for parser in PARSERS if parser.name == name)
    folder = Path(tempfile.mkdtemp(prefix="chexmix-guided-"))
    # One sound file at a time is damaged, the first; all go into the corpus.
    target, *others = parser.seeds(folder / "work")
    template = next(parent for parent in target.parents if parent.name.startswith("seed"))
    sound = shutil.copytree(template, folder / "sound")
    corpus = keep / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    for number, path in enumerate((target, *others)):
        if path.suffix == target.suffix:
            shutil.copy(path, corpus / f"sound-{number}")

    def one_input(data: bytes) -> None:
        target.write_bytes(data)
        verdict = judge(parser, target)
        if parser.writes:
            shutil.rmtree(template)
            shutil.copytree(sound, template)
        if verdict.startswith("!"):
            raise FindingError(verdict[1:])

    def mutate(data: bytes, most_bytes: int, seed: int) -> bytes:
        return change(data, random.Random(seed), parser.changes)[:most_bytes]

    options = [
        f"-runs={num_inputs}", f"-artifact_prefix={keep}/", f"-timeout={2 * LIMIT_CPU_S:.0f}", "-max_len=1048576",
        f"-rss_limit_mb={(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10) + (LIMIT_BYTES >> 20)}",
    ]  # fmt: skip
    atheris.Setup([sys.argv[0], *options, str(corpus)], one_input, custom_mutator=mutate)
    atheris.Fuzz()
