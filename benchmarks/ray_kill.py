"""A Ray cluster of this machine, one of its two nodes killed midway: the same bytes as one process? And how fast?

Usage: python benchmarks/ray_kill.py [--films 5000] [--side 64] [--commands tokenize,classify,generate-report]
           [--workers 1,2] [--out FILE]

Films are smooth noise of ``--side`` px; the model is ``debug`` with random weights, so that what is counted is what a
cluster adds. For each command: one process; the cluster with a node killed with kill -9 (all processes of the node)
when a third of the records is there, compared byte by byte; and the cluster left alone, by number of nodes of one core
each.
Prints one line of JSON a measurement; exits with 1 if a byte differs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from ray_cluster import LocalCluster
from synthetic import write_films, write_weights

REPOSITORY = Path(__file__).resolve().parents[1]
FLAGS = {
    "tokenize": ["--set", "shards.rows=256"],
    "classify": ["--embeddings", "--layer", "1"],
    "generate-report": ["--set", "decode.max_new_tokens=16"],
}
#: A node is killed when this part of the records is there.
_KILL_BEHIND = 1 / 3


def main() -> int:
    """Run it all."""
    arguments = _arguments()
    lines = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_films(folder / "films", arguments.films, arguments.side)
        write_weights(folder / "weights")
        for command in arguments.commands.split(","):
            for line in _measure(command, folder, arguments):
                print(json.dumps(line), flush=True)
                lines.append(line)
    if arguments.out is not None:
        machine = {"cores": os.cpu_count(), "load": os.getloadavg()[0], "torch": torch.__version__}
        arguments.out.write_text(json.dumps({"machine": machine, "runs": lines}, indent=1) + "\n")
    return 0 if all(line.get("equal", True) for line in lines) else 1


def _measure(command: str, folder: Path, arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    facts = {"command": command, "films": arguments.films, "side_px": arguments.side}
    one = Run(command, folder, "one")
    yield {**facts, "workers": 0, **one.times(arguments.films)}
    with LocalCluster(2) as cluster:
        killed = Run(command, folder, "killed", cluster, kill_at=int(arguments.films * _KILL_BEHIND))
        times = killed.times(arguments.films)
    yield {**facts, "workers": 2, "killed_at": killed.killed_at, **times, "equal": one.digest() == killed.digest()}
    for workers in map(int, arguments.workers.split(",")):
        with LocalCluster(workers) as cluster:
            run = Run(command, folder, f"workers-{workers}", cluster)
            times = run.times(arguments.films)
        yield {**facts, "workers": workers, **times, "equal": one.digest() == run.digest()}


class Run:
    """One command, run to its end.

    Args:
        command: its name.
        folder: with ``films`` and ``weights``; takes what it writes.
        name: of the output.
        cluster: that works; None is this process.
        kill_at: records behind which a node is killed.
    """

    def __init__(
        self, command: str, folder: Path, name: str, cluster: LocalCluster | None = None, kill_at: int | None = None
    ) -> None:
        self._out = folder / (f"{name}-shards" if command == "tokenize" else f"{name}-{command}.jsonl")
        run = [sys.executable, "-m", "chexmix_cli", command, str(folder / "films"), "-o", str(self._out), "--quiet"]
        run += ["--weights", str(folder / "weights"), "--device", "cpu", *FLAGS[command]]
        run += [] if cluster is None else ["--ray", cluster.address]
        self._marks: list[tuple[float, int]] = []
        self.killed_at: int | None = None
        started = time.perf_counter()
        with (folder / "stdout").open("wb") as stdout:
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            process = subprocess.Popen(run, stdout=stdout, cwd=REPOSITORY, env=environment)
            while process.poll() is None:
                time.sleep(0.2)
                count = _count(folder / "stdout" if command == "tokenize" else self._out)
                self._marks.append((time.perf_counter() - started, count))
                if kill_at is not None and self.killed_at is None and count >= kill_at:
                    assert cluster is not None
                    cluster.kill()
                    self.killed_at = count
        self._seconds = time.perf_counter() - started
        if process.returncode:
            raise RuntimeError(f"{' '.join(run)} ended with {process.returncode}")

    def times(self, num_films: int) -> dict[str, float]:
        """Return seconds in all, until the first records, and films a second between these and the end."""
        first_s, first = next((at, count) for at, count in self._marks if count)
        rate = (num_films - first) / max(self._seconds - first_s, 1e-9)
        return {"seconds": round(self._seconds, 1), "first_s": round(first_s, 1), "films_per_s": round(rate, 1)}

    def digest(self) -> str:
        """Return the digest of all that it wrote."""
        paths = sorted(self._out.glob("shard*")) if self._out.is_dir() else [self._out]
        digest = hashlib.sha256()
        for path in paths:
            digest.update(path.name.encode() if self._out.is_dir() else b"")
            digest.update(path.read_bytes())
        return digest.hexdigest()


def _count(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--films", type=int, default=5000)
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--commands", default="tokenize,classify,generate-report")
    parser.add_argument("--workers", default="1,2")
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
