"""Long runs of the real commands: does memory grow, do handles stay open, is the same film's result the same all along?

Usage: python benchmarks/soak.py [--films 5000] [--minutes 60] [--parts tokenize,classify,generate-report,serve]
           [--images FOLDER] [--weights DIR] [--out build/soak]

The same ``--films`` films go twenty times through ``tokenize -o``, twice through ``classify -o`` and
``generate-report -o``, and for ``--minutes`` through ``serve http``, four requests at a time: reports, codes and
embeddings.
Films are smooth noise of 64 px, one of a hundred cut off, and the model is ``debug`` with random weights, unless
``--images`` and ``--weights`` say otherwise: what is looked at is the programme around the model.

Each part is a process of its own, watched as ``soak_watch`` says. Its results are held against each other, round by
round, and against those of a run over a few of the films alone; the server's against the commands'. A part's figures
are in OUT/PART.json, and a part that has them is not run again. On SIGTERM or Ctrl-C a part ends as it does for its
users, and what it did counts, with its true number. Exits with 1 if anything grows or differs. Linux.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, astuple, dataclass
from itertools import count
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import torch
from serve_load import data_url, post, report_request, running_server, served_model
from soak_watch import LineCount, Sample, judge, watch
from synthetic import write_films, write_weights

from chexmix_cli.core.data.shards import ShardSet
from chexmix_cli.core.errors import ExitCode

REPOSITORY = Path(__file__).resolve().parents[1]
#: Of each command: how often it is given the films, and its flags.
ROUNDS = {"tokenize": 20, "classify": 2, "generate-report": 2}
_REPORTS = ("--set", "decode.max_new_tokens=16")
FLAGS = {
    "tokenize": ("--set", "shards.rows=1024"),
    "classify": ("--embeddings", "--layer", "1"),
    "generate-report": _REPORTS,
}
#: One film of so many is cut off: what is done about errors is to hold nothing either.
_CUT_EVERY = 100
_SIDE_PX = 64
#: Films of the run over a part alone, and of the server.
_NUM_ALONE = 100
_CONCURRENCY = 4
#: Embeddings and log-probabilities of other batches differ in the last digits (docs/decoding.md).
_TOLERANCE = 1e-4
_stopped = Event()


@dataclass(frozen=True)
class Place:
    """Where a part works.

    Attributes:
        films: that go through, in order.
        weights: of the model.
        folder: empty, of this part.
        every_s: seconds between samples.
    """

    films: Sequence[Path]
    weights: Path
    folder: Path
    every_s: float

    @property
    def environment(self) -> dict[str, str]:
        """Return the variables of the part's processes: one thread, and temporary files where they are counted."""
        (self.folder / "tmp").mkdir(exist_ok=True)
        return {**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": str(self.folder / "tmp")}

    def num_temporaries(self) -> int:
        """Return the number of temporary files."""
        ours = sum(path.is_file() for path in (self.folder / "tmp").rglob("*"))
        return ours + sum(1 for _ in self.folder.rglob(".*.partial"))


def main() -> int:
    """Run the parts."""
    arguments = _arguments()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: _stopped.set())
    arguments.out.mkdir(parents=True, exist_ok=True)
    is_sound = True
    with tempfile.TemporaryDirectory(prefix="chexmix-soak-") as name:
        films, weights = _inputs(arguments, Path(name))
        for part in arguments.parts.split(","):
            target = arguments.out / f"{part}.json"
            if target.exists() or _stopped.is_set():
                continue
            place = Place(films, weights, Path(name) / part, arguments.every)
            place.folder.mkdir()
            found = _serve(place, arguments.minutes) if part == "serve" else _command(part, place)
            shutil.rmtree(place.folder)
            target.write_text(json.dumps(found) + "\n")
            print(json.dumps({key: value for key, value in found.items() if key != "samples"}), flush=True)
            is_sound = is_sound and not found["different"] and all(one["is_flat"] for one in found["growth"].values())
    return 0 if is_sound else 1


def _inputs(arguments: argparse.Namespace, folder: Path) -> tuple[list[Path], Path]:
    if arguments.images is None:
        films = write_films(folder / "films", arguments.films, _SIDE_PX)
        for path in films[_CUT_EVERY - 1 :: _CUT_EVERY]:
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 3])
    else:
        found = (path for path in arguments.images.rglob("*") if path.suffix.lower() in (".jpg", ".png", ".dcm"))
        films = [path.resolve() for path in sorted(found)[: arguments.films]]
    if arguments.weights is not None:
        return films, arguments.weights.resolve()
    write_weights(folder / "weights")
    return films, folder / "weights"


def _command(command: str, place: Place) -> dict[str, Any]:
    """Give a command the films as often as it is to have them; return what came of it."""
    rounds = ROUNDS[command]
    before, started = _cpu_s(), time.monotonic()
    process = _start(command, place, "all", range(rounds), place.films)
    records = place.folder / "all.stdout" if command == "tokenize" else _out(command, place, "all")
    samples = watch(
        process, LineCount(records), place.num_temporaries, every_s=place.every_s, stop=lambda _: _stopped.is_set()
    )
    spent = {"seconds": round(time.monotonic() - started, 1), "cpu_s": round(_cpu_s() - before, 1)}
    was_stopped = process.returncode == ExitCode.INTERRUPTED
    if not was_stopped and process.returncode not in (ExitCode.DONE, ExitCode.PARTIAL):
        raise SystemExit(f"{command} ended with {process.returncode}: {(place.folder / 'all.stderr').read_text()}")
    first, different, done = dict[str, Any](), list[str](), 0
    for name, result in _results(_out(command, place, "all")):
        done += 1
        if not _is_close(first.setdefault(name.partition("-")[2], result), result):
            different.append(name)
    few = list(place.films[len(place.films) // 3 :][:_NUM_ALONE])
    alone = _alone(command, place, few)
    compared = [path.stem for path in few if path.stem in first]
    different += [f"alone {name}" for name in compared if not _is_close(alone[name], first[name])]
    facts = {"part": command, "work": "films", "wanted": rounds * len(place.films), "done": done}
    return {**facts, "different": different, "alone": len(compared), **_facts(place, samples), **spent}


def _is_close(a: Any, b: Any) -> bool:
    """Return whether two results are equal, their floating-point numbers within the tolerance."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_is_close(a[key], b[key]) for key in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(_is_close, a, b))
    if isinstance(a, float) and isinstance(b, float):
        return math.isclose(a, b, rel_tol=_TOLERANCE, abs_tol=_TOLERANCE)
    return bool(a == b)


def _alone(command: str, place: Place, films: Sequence[Path]) -> dict[str, Any]:
    """Return the results of a run over some films alone, by the film's name."""
    process = _start(command, place, "alone", range(1), films)
    if process.wait() not in (ExitCode.DONE, ExitCode.PARTIAL):
        raise SystemExit(f"{command} ended with {process.returncode}: {(place.folder / 'alone.stderr').read_text()}")
    return {name.partition("-")[2]: result for name, result in _results(_out(command, place, "alone"))}


def _start(command: str, place: Place, name: str, rounds: range, films: Sequence[Path]) -> subprocess.Popen[bytes]:
    listed = place.folder / f"{name}.manifest"
    with listed.open("w") as file:
        for number in rounds:
            for film in films:
                file.write(json.dumps({"id": f"{number:02d}-{film.stem}", "file": str(film)}) + "\n")
    words = [sys.executable, "-m", "chexmix_cli", command, "-", "-o", str(_out(command, place, name)), "--quiet"]
    words += ["--weights", str(place.weights), "--device", "cpu", *FLAGS[command]]
    out, err = (place.folder / f"{name}.{stream}" for stream in ("stdout", "stderr"))
    with listed.open("rb") as stdin, out.open("wb") as stdout, err.open("wb") as stderr:
        # A group of its own: Ctrl-C reaches this process alone, which tells it once.
        return subprocess.Popen(
            words,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            cwd=REPOSITORY,
            env=place.environment,
            process_group=0,
        )


def _out(command: str, place: Place, name: str) -> Path:
    return place.folder / (name if command == "tokenize" else f"{name}.jsonl")


def _results(out: Path) -> Iterator[tuple[str, Any]]:
    """Yield the id of each record with what has to be the same for the same film: codes, or all but the id."""
    if out.is_dir():
        shards, row = ShardSet.open(out, allow_partial=True), 0
        for entry in shards.index():
            if entry["status"] == "ok":
                yield entry["id"], shards.codes(row).tobytes()
                row += 1
            else:
                yield entry["id"], entry["error"]
        return
    with out.open() as lines:
        for line in lines:
            record = json.loads(line)
            yield record.pop("id"), record


def _serve(place: Place, minutes: float) -> dict[str, Any]:
    """Ask a server for what the commands give, for so many minutes; return what came of it."""
    films = list(place.films[:_NUM_ALONE])
    wanted = {command: _alone_once(command, place, films) for command in ROUNDS}
    words = ["--weights", str(place.weights), "--device", "cpu", *_REPORTS]
    before, started, different = _cpu_s(), time.monotonic(), list[str]()
    numbers, done, statuses = count(), list[int](), dict[int, int]()
    over = Event()
    with running_server(words, place.environment) as (process, port):
        model = served_model(port)
        requests = [request for film in films for request in _requests(film, model)]

        def ask() -> None:
            while not over.is_set():
                number = next(numbers) % len(requests)
                command, name, path, body = requests[number]
                status, answer, _, _ = post(port, path, body)
                statuses[status] = statuses.get(status, 0) + 1
                if not _is_same(command, status, answer, wanted[command][name]):
                    different.append(f"{command} {name}: {status}")
                done.append(number)

        with ThreadPoolExecutor(_CONCURRENCY) as pool:
            asking = [pool.submit(ask) for _ in range(_CONCURRENCY)]

            def is_time(seconds: float) -> bool:
                if seconds > 60 * minutes or _stopped.is_set() or any(one.done() for one in asking):
                    over.set()
                return over.is_set() and all(one.done() for one in asking)

            samples = watch(process, lambda: len(done), place.num_temporaries, every_s=place.every_s, stop=is_time)
            over.set()
        for one in asking:
            one.result()
    if process.returncode != ExitCode.DONE:
        raise SystemExit(f"the server ended with {process.returncode}")
    spent = {"seconds": round(time.monotonic() - started, 1), "cpu_s": round(_cpu_s() - before, 1)}
    facts = {"part": "serve", "work": "answers", "wanted": None, "done": len(done), "statuses": statuses}
    return {**facts, "different": different, "alone": len(films), **_facts(place, samples), **spent}


def _alone_once(command: str, place: Place, films: Sequence[Path]) -> dict[str, Any]:
    found = _alone(command, place, films)
    for path in place.folder.glob("alone*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return found


def _requests(film: Path, model: str) -> Iterator[tuple[str, str, str, bytes]]:
    """Yield the commands whose results a film is asked for, with the film's name, the path and the body."""
    url = data_url(film)
    plain = {"image": url, "id": film.stem}
    yield "generate-report", film.stem, "/v1/chat/completions", report_request(url, model)
    yield "tokenize", film.stem, "/tokenize", json.dumps(plain).encode()
    yield "classify", film.stem, "/embed", json.dumps({**plain, "layers": [1]}).encode()


def _is_same(command: str, status: int, answer: Any, wanted: Any) -> bool:
    """Return whether the server's answer is the command's result: a refusal with the same reason counts."""
    if status != 200:
        reason = wanted if command == "tokenize" else wanted.get("error")
        return isinstance(reason, dict) and answer["error"]["code"] == reason["code"]
    if command == "tokenize":
        return bool(np.array(answer["codes"], np.uint16).tobytes() == wanted)
    if command == "generate-report":
        return bool(answer["choices"][0]["chexmix"]["token_ids"] == wanted["token_ids"])
    return _is_close(answer["embeddings"], wanted["embeddings"])


def _facts(place: Place, samples: Sequence[Sample]) -> dict[str, Any]:
    growth = {name: asdict(one) for name, one in judge(samples).items()}
    machine = {"cores": os.cpu_count(), "load": round(os.getloadavg()[0], 1), "torch": torch.__version__}
    about = {"films": len(place.films), "date": time.strftime("%Y-%m-%d"), "machine": machine}
    return {**about, "growth": growth, "samples": [astuple(one) for one in samples]}


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--films", type=int, default=5000, help="different ones")
    parser.add_argument("--minutes", type=float, default=60, help="of the server")
    parser.add_argument("--parts", default=",".join([*ROUNDS, "serve"]))
    parser.add_argument("--images", type=Path, help="folder of real films; default: synthetic ones")
    parser.add_argument("--weights", type=Path, help="default: debug with random numbers")
    parser.add_argument("--every", type=float, default=1.0, help="seconds between samples")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "build" / "soak")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
