"""What a process and all that it started hold while it works, from Linux's ``/proc``, and whether it grows.

The rule, over samples ordered by work done (films, or answers), in five fifths of it. The first fifth is not judged:
there models are loaded and caches filled.

- Memory, all that is resident and what of it is anonymous (pages of files come and go as the kernel likes, and could
  hide a leak): the median of the last fifth is at most ``MOST_GROWTH`` above that of the second, and so is what a
  robust line (Theil and Sen: the median of the slopes of all pairs) rises by over the last four fifths.
- Open handles, threads, temporary files: the median of the last fifth is at most ``MOST_MORE`` above the second's.
"""

from __future__ import annotations

import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import combinations
from pathlib import Path

#: Of resident memory, as a part of it.
MOST_GROWTH = 0.02
#: Of what is counted.
MOST_MORE = 1
#: Pairs of more samples than this cost seconds and change nothing.
_MOST_SAMPLES = 400


@dataclass(frozen=True, slots=True)
class Sample:
    """One look at a process and its descendants.

    Attributes:
        done: work done, in films or answers.
        seconds: since the watch began.
        resident_kib: memory that is in RAM; what processes share counts for each.
        handles, threads: of all of them.
        temporaries: files under names that are not kept.
        anonymous_kib: of the resident memory, what belongs to no file.
    """

    done: int
    seconds: float
    resident_kib: int
    handles: int
    threads: int
    temporaries: int
    anonymous_kib: int


@dataclass(frozen=True, slots=True)
class Growth:
    """One figure over a run.

    Attributes:
        second, last: medians of the second and the last fifth.
        most: the greatest of all samples.
        rise: what the robust line rises by over the last four fifths.
        is_flat: the rule holds.
    """

    second: float
    last: float
    most: float
    rise: float
    is_flat: bool


#: What the rule is over.
FIGURES = tuple(field.name for field in fields(Sample))[2:]


class LineCount:
    """Counts the lines of a file that is written to, reading only what is new."""

    def __init__(self, path: Path) -> None:
        self._path, self._place, self._count = path, 0, 0

    def __call__(self) -> int:
        """Return how many there are now."""
        if self._path.exists():
            with self._path.open("rb") as file:
                file.seek(self._place)
                while part := file.read(1 << 20):
                    self._place += len(part)
                    self._count += part.count(b"\n")
        return self._count


def watch(
    process: subprocess.Popen[bytes],
    count: Callable[[], int],
    temporaries: Callable[[], int],
    *,
    every_s: float,
    stop: Callable[[float], bool],
) -> list[Sample]:
    """Return samples of a process until it ends.

    Args:
        process: that works.
        count: returns the work done.
        temporaries: returns how many temporary files there are.
        every_s: seconds between samples.
        stop: of the seconds since the begin; once it is true the process gets SIGTERM.
    """
    found, begun, is_told = list[Sample](), time.monotonic(), False
    while process.poll() is None:
        seconds = time.monotonic() - begun
        try:
            held = [_held(Path("/proc", pid)) for pid in _with_descendants(str(process.pid))]
        except (FileNotFoundError, ProcessLookupError, KeyError):
            held = []  # one ended meanwhile; what is not yet reaped has no memory
        if held:
            resident, handles, threads, anonymous = (sum(column) for column in zip(*held, strict=True))
            found.append(Sample(count(), round(seconds, 2), resident, handles, threads, temporaries(), anonymous))
        if not is_told and stop(seconds):
            process.terminate()
            is_told = True
        try:
            process.wait(every_s)
        except subprocess.TimeoutExpired:
            continue
    return found


def judge(samples: Sequence[Sample]) -> dict[str, Growth]:
    """Return each figure's growth over the work that was done.

    Raises:
        ValueError: if a fifth of it has no sample.
    """
    end = samples[-1].done
    fifths = [[one for one in samples if part * end <= 5 * one.done < (part + 1) * end] for part in range(5)]
    fifths[4] += [one for one in samples if one.done == end]
    if not (fifths[1] and fifths[4]) or end == 0:
        raise ValueError(f"{len(samples)} samples are too few for a judgement")
    judged = [one for fifth in fifths[1:] for one in fifth]
    judged = judged[:: -(-len(judged) // _MOST_SAMPLES)]
    found = {}
    for name in FIGURES:
        second, last = (statistics.median(getattr(one, name) for one in fifths[place]) for place in (1, 4))
        rise = _slope([(one.done, getattr(one, name)) for one in judged]) * 0.8 * end
        is_memory = name.endswith("_kib")
        more = MOST_GROWTH * second if is_memory else MOST_MORE
        is_flat = last - second <= more and (not is_memory or rise <= more)
        most = max(getattr(one, name) for one in samples)
        found[name] = Growth(second, last, most, round(rise, 2), is_flat)
    return found


def _slope(points: Sequence[tuple[int, int]]) -> float:
    slopes = [(b[1] - a[1]) / (b[0] - a[0]) for a, b in combinations(points, 2) if a[0] != b[0]]
    return statistics.median(slopes) if slopes else 0.0


def _with_descendants(pid: str) -> Iterator[str]:
    yield pid
    for thread in Path("/proc", pid, "task").iterdir():
        for child in (thread / "children").read_text().split():
            yield from _with_descendants(child)


def _held(process: Path) -> tuple[int, int, int, int]:
    """Return resident KiB, open handles, threads and anonymous KiB of one process."""
    status = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
    resident, anonymous = (int(status[name].split()[0]) for name in ("VmRSS", "RssAnon"))
    return resident, len(list((process / "fd").iterdir())), int(status["Threads"]), anonymous
