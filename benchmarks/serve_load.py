"""Load ``chexmix serve http`` from this machine: throughput, latency, memory and refusals by concurrency.

Starts the server as its users do, sends a bounded number of report requests from as many threads as the concurrency
says, and holds every report against the one that was written first: nothing may be lost, doubled or different. A
request that is told to come again (429) comes again after the time it was told, and its refusals are counted.

Beside the wall's time stands the processor's, which says the same on a machine that others use, too.

Usage: python benchmarks/serve_load.py [FILMS] [--requests N] [--concurrency N ...] [--rounds N] [--queue N] [--set A=B]
"""

from __future__ import annotations

import argparse
import base64
import http.client
import json
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

REPOSITORY = Path(__file__).resolve().parents[1]
_MOST_FILMS = 16
_MEDIA = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".dcm": "application/dicom"}


@dataclass(frozen=True, slots=True)
class Asked:
    """One request, answered."""

    film: int
    token_ids: tuple[int, ...]
    seconds: float
    refusals: int


def main() -> None:
    """Measure each concurrency on one server; print a line of JSON for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("films", nargs="?", type=Path, default=REPOSITORY / "docs" / "images" / "demo-film.jpg")
    parser.add_argument("--requests", type=int, default=128, help="for each concurrency; a quarter of it for 1")
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--rounds", type=int, default=1, help="times that all concurrencies are gone through")
    parser.add_argument("--queue", type=int, default=64)
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C")
    given = parser.parse_args()
    # Told to stop, it stops its server, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    bodies = [_body(path) for path in _films(given.films)]
    words = [part for one in (f"server.queue={given.queue}", *given.set) for part in ("--set", one)]
    with running_server(words) as (_, port):
        expected = {film: _ask(port, film, bodies[film]).token_ids for film in range(len(bodies))}
        for concurrency in given.concurrency * given.rounds:
            count = given.requests if concurrency > 1 else max(1, given.requests // 4)
            print(json.dumps(_level(port, bodies, expected, concurrency, count)), flush=True)


def _level(
    port: int, bodies: list[bytes], expected: dict[int, tuple[int, ...]], concurrency: int, count: int
) -> dict[str, object]:
    films = [number % len(bodies) for number in range(count)]
    before, started = _metrics(port), time.perf_counter()
    with ThreadPoolExecutor(concurrency) as pool:
        answers = list(pool.map(lambda film: _ask(port, film, bodies[film]), films))
    seconds, after = time.perf_counter() - started, _metrics(port)
    different = sum(answer.token_ids != expected[answer.film] for answer in answers)
    assert len(answers) == count
    batches = after['chexmix_batch_films_count{verb="report"}'] - before['chexmix_batch_films_count{verb="report"}']
    films_done = after['chexmix_batch_films_sum{verb="report"}'] - before['chexmix_batch_films_sum{verb="report"}']
    assert films_done == count, "films were lost or worked on twice"
    times = np.array([answer.seconds for answer in answers])
    return {
        "concurrency": concurrency,
        "requests": count,
        "reports_per_s": round(count / seconds, 2),
        "cpu_s_a_report": round((_cpu(after) - _cpu(before)) / count, 2),
        "p50_s": round(float(np.percentile(times, 50)), 2),
        "p95_s": round(float(np.percentile(times, 95)), 2),
        "p99_s": round(float(np.percentile(times, 99)), 2),
        "films_a_batch": round(films_done / batches, 1),
        "refusals": sum(answer.refusals for answer in answers),
        "different": different,
        "resident_mib": round(after["process_resident_memory_bytes"] / 2**20),
        "cpu": _processor(),
    }


def _ask(port: int, film: int, body: bytes) -> Asked:
    """Ask for a report until it is there; the time is that of the request that got it."""
    status, found, seconds, refusals = post(port, "/v1/chat/completions", body)
    if status != http.client.OK:
        raise SystemExit(f"{status}: {found}")
    return Asked(film, tuple(found["choices"][0]["chexmix"]["token_ids"]), seconds, refusals)


def post(port: int, path: str, body: bytes) -> tuple[int, Any, float, int]:
    """Ask until it is answered otherwise than "come again".

    Returns:
        Status, answer, seconds of the request that got it, and how often it was told to come again.
    """
    refusals = 0
    while True:
        started = time.perf_counter()
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
        connection.request("POST", path, body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        found, retry = json.loads(answer.read()), answer.headers.get("Retry-After")
        connection.close()
        if answer.status != http.client.TOO_MANY_REQUESTS or retry is None:
            return answer.status, found, time.perf_counter() - started, refusals
        refusals += 1
        time.sleep(int(retry))


def served_model(port: int) -> str:
    """Return the name that requests for reports have to give."""
    return str(json.loads(_get(port, "/v1/models"))["data"][0]["id"])


def _metrics(port: int) -> dict[str, float]:
    rows = [row.rpartition(" ") for row in _get(port, "/metrics").splitlines() if not row.startswith("#")]
    return {name: float(value) for name, _, value in rows}


def _get(port: int, path: str) -> str:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", path)
    text = connection.getresponse().read().decode()
    connection.close()
    return text


def _cpu(metrics: dict[str, float]) -> float:
    return metrics["process_cpu_seconds_total"]


def _films(path: Path) -> list[Path]:
    found = [path] if path.is_file() else sorted(one for one in path.iterdir() if one.suffix in _MEDIA)
    return found[:_MOST_FILMS]


def _body(path: Path) -> bytes:
    return report_request(data_url(path), "chexmix-mini")


def data_url(path: Path) -> str:
    """Return a film as requests hold it."""
    return f"data:{_MEDIA[path.suffix]};base64,{base64.b64encode(path.read_bytes()).decode()}"


def report_request(url: str, model: str) -> bytes:
    """Return the body of a request for a report."""
    part = {"type": "image_url", "image_url": {"url": url}}
    return json.dumps({"model": model, "messages": [{"role": "user", "content": [part]}]}).encode()


@contextmanager
def running_server(
    words: Sequence[str], environment: Mapping[str, str] | None = None
) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """Run a server; give its process, and its port, which it says in its log. The rest of the log is thrown away."""
    command = [sys.executable, "-m", "chexmix_cli", "serve", "http", "--port", "0", *words]
    with (
        subprocess.Popen(command, stderr=subprocess.PIPE, cwd=REPOSITORY, env=environment, process_group=0) as running,
        ThreadPoolExecutor(1) as aside,
    ):
        assert running.stderr is not None
        try:
            events = (json.loads(line) for line in running.stderr)
            port = next(event["port"] for event in events if event["event"] == "listening")
            aside.submit(running.stderr.read)
            yield running, port
        finally:
            running.terminate()


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    named = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    return f"{named[0]}, {len(named)} processors" if named else platform.processor()


if __name__ == "__main__":
    main()
