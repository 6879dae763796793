"""A process that has loaded what commands load, and forks one for each command line that it is told.

Its hash seed, what memory holds that nobody has written yet, its clock and its number of threads are fixed from its
start, so each combination of them is a process of its own. It reads requests from stdin, a line of JSON each, and
answers each with a line: ``begin`` with the process id, ``end`` with exit code and processor time.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any

#: Set to a number: folders are listed in an order that is drawn with it.
SHUFFLED = "CHEXMIX_TEST_SHUFFLED"


class _Entries:
    """What ``os.scandir`` gives, in another order."""

    def __init__(self, entries: list[Any]) -> None:
        self._entries = iter(entries)

    def __iter__(self) -> Iterator[Any]:
        return self._entries

    def __next__(self) -> Any:
        return next(self._entries)

    def __enter__(self) -> _Entries:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        pass


def shuffle_folders(seed: int) -> None:
    """List folders in an order that no file system promises, from now on."""
    draw, listed, scanned = random.Random(seed), os.listdir, os.scandir

    def in_any_order(entries: list[Any]) -> list[Any]:
        draw.shuffle(entries)
        return entries

    def scandir(*place: Any) -> _Entries:
        with scanned(*place) as found:
            return _Entries(in_any_order(list(found)))

    os.listdir = lambda *place: in_any_order(listed(*place))  # type: ignore[assignment]
    os.scandir = scandir  # type: ignore[assignment]


def _begin(request: dict[str, Any]) -> int:
    process = os.fork()
    if process:
        return process
    os.setsid()
    os.chdir(request["folder"])
    os.environ.update(request["environment"])
    if "OMP_NUM_THREADS" in request["environment"]:
        import torch

        torch.set_num_threads(int(request["environment"]["OMP_NUM_THREADS"]))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number, (name, flags) in enumerate(
        ((request["stdin"], os.O_RDONLY), *((request[name], os.O_WRONLY | os.O_CREAT) for name in ("stdout", "stderr")))
    ):
        os.dup2(os.open(name, flags, 0o600), number)
    # Standard streams are remade: those of the process that it was forked from may hold what was read ahead.
    sys.stdin = os.fdopen(os.dup(0), encoding="utf-8")
    from chexmix_cli.__main__ import main

    main(request["words"])
    raise AssertionError("a command line ends its process")


def _serve(answer: Callable[[dict[str, Any]], None], lines: Iterator[str]) -> None:
    for line in lines:
        request = json.loads(line)
        if "words" in request:
            answer({"pid": _begin(request)})
        else:
            _, status, used = os.wait4(request["end"], 0)
            answer({"code": os.waitstatus_to_exitcode(status), "cpu_s": used.ru_utime + used.ru_stime})


def main() -> None:
    """Serve until stdin is closed."""
    if SHUFFLED in os.environ:
        shuffle_folders(int(os.environ[SHUFFLED]))
    import tests.faults.preload  # noqa: F401

    requests, answers = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")

    def answer(found: dict[str, Any]) -> None:
        print(json.dumps(found), file=answers, flush=True)

    answer({"ready": True})
    _serve(answer, iter(requests.readline, ""))


if __name__ == "__main__":
    main()
