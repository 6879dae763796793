"""Record what every command gives on small samples, and compare two recordings: is other code the same to the bit?

    python tools/record_outputs.py record before --checkout ../main
    python tools/record_outputs.py record after
    python tools/record_outputs.py compare before after

The commands are those of ``tools/recorded_commands.txt``; ``--chexmix`` says what is started for ``chexmix`` in them,
and ``--checkout`` whose code it finds. A folder of the recording is one command: ``command``, ``exit``, ``stdout``,
``stderr``, and under ``files`` what it wrote, text as it is and of all else the size and the SHA-256. What
:data:`RULES` names may differ from run to run and is replaced. ``work`` keeps the samples and the files themselves.
Runs on the CPU, with one thread. ``compare`` ends with 1 if anything differs.
"""

from __future__ import annotations

import argparse
import difflib
import hashlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from record_samples import make_samples

REPOSITORY = Path(__file__).resolve().parents[1]

#: What may differ between two runs of one checkout: name -> (pattern, replacement). Paths are replaced besides.
RULES = {
    "state of the checkout": (r'("(?:commit|changed)": )("[0-9a-f]{40}"|null|true|false)', r"\1<varies>"),
    "rate of training": (
        r'((?:examples_per_s|tokens_per_s|mfu|left_s|share of)"?:? )[\d.e+-]+|(left )[\d.]+ (?:s|min|h \d+ min)\b',
        r"\1\2<varies>",
    ),
    "seconds that a plan measured": (r'"seconds": \{[^{}]*\}', '"seconds": <varies>'),
    "memory of the process that plans": (r'("(?:process|peak_bytes)": )\d+', r"\1<varies>"),
    "figures of --stats": (
        r"(?m)^((?:prefill|decode|first token after|bandwidth floor|peak memory)\t)[\d.]+",
        r"\1<varies>",
    ),
    "bandwidth of --stats": (r"[\d.]+ GiB/s", "<varies> GiB/s"),
}

_TIMEOUT_S = 300
_WORK = "work"
_TEXT = "utf-8"
_EXCERPT_LINES, _LINE_WIDTH = 24, 160


def normalise(text: str, paths: Mapping[str, Path]) -> str:
    """Replace the folders of this run by their names, and what else no two runs have in common by :data:`RULES`."""
    for name, path in paths.items():
        text = text.replace(str(path), f"<{name}>")
    for pattern, replacement in RULES.values():
        text = re.sub(pattern, replacement, text)
    return text


def described(data: bytes, paths: Mapping[str, Path]) -> str:
    """Return text normalised, and size and SHA-256 of what is no text."""
    try:
        text = data.decode(_TEXT)
    except UnicodeDecodeError:
        text = "\0"
    if "\0" not in text:
        return normalise(text, paths)
    return f"{len(data)} bytes, sha256 {hashlib.sha256(data).hexdigest()}\n"


def read_commands(path: Path) -> dict[str, str]:
    """Return name -> shell command, in the order of the file.

    Raises:
        ValueError: if a line has no name, or one that is there already.
    """
    commands: dict[str, str] = {}
    for line in path.read_text(encoding=_TEXT).splitlines():
        if not line or line.startswith("#"):
            continue
        name, found, command = line.partition(": ")
        if not found or not re.fullmatch("[a-z0-9-]+", name) or name in commands or name in (_WORK, "in"):
            raise ValueError(f"{path}: {line!r}; expected a name of its own, a colon and a command")
        commands[name] = command
    return commands


def environment(work: Path, checkout: Path) -> dict[str, str]:
    """Return the environment of every command: nothing of this machine or session that could show in an output."""
    kept = {name: os.environ[name] for name in ("HOME", "LD_LIBRARY_PATH", "TMPDIR") if name in os.environ}
    threads = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "MKL", "OPENBLAS")}
    shown = {"LC_ALL": "C.UTF-8", "TZ": "UTC", "TERM": "dumb", "COLUMNS": "100", "LINES": "40", "NO_COLOR": "1"}
    ours = {"CHEXMIX_HOME": str(work / "home"), "CHEXMIX_ID_SALT": "a salt for recordings"}
    ours |= {
        "MINI": str(checkout / "chexmix_cli/assets/chexmix-mini"),
        "CUDA_VISIBLE_DEVICES": "",
        "HF_HUB_OFFLINE": "1",
    }
    path = f"{work / 'bin'}{os.pathsep}{os.environ['PATH']}"
    return kept | threads | shown | ours | {"PATH": path, "PYTHONPATH": str(checkout)}


def run(command: str, folder: Path, env: Mapping[str, str]) -> tuple[str, bytes, bytes]:
    """Run a shell command in a folder; return its exit code (``timeout`` after so long), stdout and stderr."""
    arguments = ["bash", "-o", "pipefail", "-c", command]
    folder.mkdir()
    with subprocess.Popen(
        arguments,
        cwd=folder,
        env=dict(env),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        try:
            stdout, stderr = process.communicate(timeout=_TIMEOUT_S)
            return str(process.returncode), stdout, stderr
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            return ("timeout", *process.communicate())


def record(folder: Path, commands: Mapping[str, str], *, chexmix: str, checkout: Path, shared: Path) -> None:
    """Run the commands and write down what they gave.

    Raises:
        FileExistsError: if the folder is there.
    """
    work = folder.resolve() / _WORK
    work.mkdir(parents=True)
    make_samples(shared, work / "in")
    starter = work / "bin/chexmix"
    starter.parent.mkdir()
    starter.write_text(f'#!/bin/sh\nexec {chexmix} "$@"\n', encoding=_TEXT)
    starter.chmod(0o755)
    paths = {"work": work, "checkout": checkout}
    env = environment(work, checkout)
    for name, command in commands.items():
        started = time.perf_counter()
        code, stdout, stderr = run(command, work / name, env)
        print(f"{time.perf_counter() - started:6.1f} s  exit {code}  {name}", file=sys.stderr, flush=True)
        found = {"command": command.encode() + b"\n", "exit": code.encode() + b"\n", "stdout": stdout, "stderr": stderr}
        files = sorted(path for path in (work / name).rglob("*") if path.is_file())
        found |= {f"files/{path.relative_to(work / name)}": path.read_bytes() for path in files}
        for part, data in found.items():
            target = folder / name / part
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(described(data, paths), encoding=_TEXT)


def shown_lines(text: str) -> list[str]:
    """Return lines as a difference is shown in: JSON a value a line, and nothing wider than a terminal."""
    lines: list[str] = []
    for line in text.split("\n"):
        try:
            spread = json.dumps(json.loads(line), indent=1).split("\n") if line.startswith(("{", "[")) else [line]
        except ValueError:
            spread = [line]
        lines += [one[at : at + _LINE_WIDTH] for one in spread for at in range(0, max(1, len(one)), _LINE_WIDTH)]
    return lines


def excerpt(before: str, after: str) -> str:
    """Return the beginning of the unified diff of two texts that differ."""
    old, new = shown_lines(before), shown_lines(after)
    if old == new:
        old, new = ([repr(line)[:_LINE_WIDTH] for line in text.splitlines(keepends=True)] for text in (before, after))
    lines = list(difflib.unified_diff(old, new, n=1, lineterm=""))[2:]
    more = len(lines) - _EXCERPT_LINES
    return "\n".join([*lines[:_EXCERPT_LINES], *([f"... {more} more lines"] if more > 0 else [])])


def _texts(folder: Path) -> dict[str, Path]:
    found = {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()}
    return {str(path): folder / path for path in sorted(found) if path.parts[0] != _WORK}


def differences(before: Path, after: Path) -> Iterator[tuple[str, str]]:
    """Yield where two recordings differ, and how."""
    sides = _texts(before), _texts(after)
    commands = [{name.split("/")[0] for name in side} for side in sides]
    for name in sorted(commands[0] ^ commands[1]):
        yield name, f"only in {before if name in commands[0] else after}"
    for name in sorted(sides[0].keys() | sides[1].keys()):
        if name.split("/")[0] not in commands[0] & commands[1]:
            continue
        if name not in sides[1]:
            yield name, f"only in {before}"
        elif name not in sides[0]:
            yield name, f"only in {after}"
        else:
            texts = [side[name].read_bytes().decode(_TEXT) for side in sides]
            if texts[0] != texts[1]:
                yield name, excerpt(*texts)


def compare(before: Path, after: Path) -> int:
    """Print every difference; return the exit code."""
    count = 0
    for name, how in differences(before, after):
        count += 1
        print(f"{name}\n{how}\n")
    print(f"{count} differences", file=sys.stderr)
    return int(count > 0)


def main(arguments: Sequence[str] | None = None) -> int:
    """Record or compare; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    modes = parser.add_subparsers(dest="mode", required=True)
    one = modes.add_parser("record", help="run the commands and write a recording")
    one.add_argument("folder", type=Path, help="folder of the recording; must not be there")
    one.add_argument("--checkout", type=Path, default=REPOSITORY, help="whose code runs; default: this one")
    one.add_argument("--chexmix", default=f"{shlex.quote(sys.executable)} -m chexmix_cli", help="what chexmix starts")
    one.add_argument("--shared", type=Path, default=REPOSITORY.parent / "shared", help="development data")
    one.add_argument("--only", nargs="*", help="only these commands; what they read of others has to be named too")
    two = modes.add_parser("compare", help="list the differences of two recordings")
    two.add_argument("before", type=Path)
    two.add_argument("after", type=Path)
    options = parser.parse_args(arguments)
    if options.mode == "compare":
        return compare(options.before, options.after)
    commands = read_commands(Path(__file__).with_name("recorded_commands.txt"))
    if options.only:
        commands = {name: command for name, command in commands.items() if name in options.only}
    record(
        options.folder,
        commands,
        chexmix=options.chexmix,
        checkout=options.checkout.resolve(),
        shared=options.shared,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
