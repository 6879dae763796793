"""The processes that command lines are forked from, one for each way that two runs on one machine may differ."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.determinism.program import SHUFFLED

REPOSITORY = Path(__file__).resolve().parents[2]
#: The clock of the other run, days from the true one. Back: who waits for a time of the true clock goes on then.
OTHER_DAY = -400

# What programs ask for the time of day, moved by a number of seconds. Waits use the other clock, which is let alone.
_CLOCK = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>
static long moved(void) { const char *text = getenv("CHEXMIX_TEST_SECONDS"); return text ? atol(text) : 0; }
int clock_gettime(clockid_t clock, struct timespec *now) {
  static int (*real)(clockid_t, struct timespec *);
  if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
  int code = real(clock, now);
  if (code == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) now->tv_sec += moved();
  return code;
}
int gettimeofday(struct timeval *now, void *zone) {
  struct timespec time;
  int code = clock_gettime(CLOCK_REALTIME, &time);
  now->tv_sec = time.tv_sec; now->tv_usec = time.tv_nsec / 1000;
  return code;
}
time_t time(time_t *kept) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  if (kept) *kept = now.tv_sec;
  return now.tv_sec;
}
"""


def clock_library(folder: Path) -> Path | None:
    """Return a library that moves the clock of a process it is loaded into; None without a C compiler."""
    compiler = shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        return None
    source, library = folder / "clock.c", folder / "clock.so"
    source.write_text(_CLOCK)
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
    return library


def usual(home: Path) -> dict[str, str]:
    """Return the variables of the run that others are compared with."""
    return {
        "OMP_NUM_THREADS": "1",
        "PYTHONHASHSEED": "1",
        "MALLOC_PERTURB_": "85",
        "TZ": "UTC",
        "LC_ALL": "C.UTF-8",
        "CHEXMIX_HOME": str(home),
        "CHEXMIX_ID_SALT": "a salt for tests",
        "XDG_CONFIG_HOME": str(home),
        "PYTHONPATH": str(REPOSITORY),
    }


def other(home: Path, clock: Path | None) -> dict[str, str]:
    """Return variables of a run that differs in all that must not matter: drawn anew each time, and told on failure."""
    moved = {} if clock is None else {"LD_PRELOAD": str(clock), "CHEXMIX_TEST_SECONDS": str(OTHER_DAY * 86_400)}
    seed = str(random.SystemRandom().randrange(2, 1 << 32))
    return usual(home) | moved | {
        "PYTHONHASHSEED": seed, SHUFFLED: seed, "MALLOC_PERTURB_": "170", "TZ": "Asia/Kathmandu", "LC_ALL": "C",
    }  # fmt: skip


@dataclass(frozen=True)
class Ended:
    """A command that has ended.

    Attributes:
        code: exit code, negative for a signal.
        cpu_s: processor time of it and the processes that it waited for.
    """

    code: int
    cpu_s: float


class Interpreter:
    """A process that command lines are forked from.

    Args:
        variables: that it has besides ours.
    """

    def __init__(self, variables: Mapping[str, str]) -> None:
        self.variables = dict(variables)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.determinism.program"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **variables},
            cwd=REPOSITORY,
        )
        self._is_ready = False

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the process that commands are forked from has ended"
        found: dict[str, Any] = json.loads(line)
        return found

    def _ask(self, **request: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        if not self._is_ready:  # asked late, so that several load at the same time
            assert self._answer() == {"ready": True}
            self._is_ready = True
        print(json.dumps(request), file=self._process.stdin, flush=True)
        return self._answer()

    def begin(
        self,
        words: Iterable[str],
        folder: Path,
        streams: Path,
        *,
        stdin: str = "/dev/null",
        environment: Mapping[str, str] | None = None,
    ) -> int:
        """Start a command line in a folder; return its process id.

        Args:
            words: of the command line.
            folder: it runs in.
            streams: folder of the files ``stdout`` and ``stderr``, which are added to.
            stdin: file, from the folder.
            environment: variables that it has besides; of ``OMP_NUM_THREADS`` torch's threads are made.
        """
        names = {name: str(streams / name) for name in ("stdout", "stderr")}
        for name in names.values():
            Path(name).write_bytes(b"")
        found = self._ask(
            words=list(words), folder=str(folder), environment=dict(environment or {}), stdin=stdin, **names
        )
        return int(found["pid"])

    def end(self, process: int) -> Ended:
        """Wait for a command to end."""
        return Ended(**self._ask(end=process))

    def stop(self, process: int) -> Ended:
        """Ask a server to stop, and wait for it."""
        os.kill(process, signal.SIGTERM)
        return self.end(process)

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        assert self._process.wait(240) == 0
        assert self._process.stdout is not None
        self._process.stdout.close()
