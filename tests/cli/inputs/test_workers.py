"""Worker processes: same results, same order, bounded; one that dies costs its own record."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from functools import partial

import pytest

from chexmix_cli.core.errors import DataError, Reason, WorkerBugError
from chexmix_cli.library.jobs.job import Job
from chexmix_cli.library.jobs.workers import StandingWorker, prepare_ahead


def square(number: int) -> int:
    time.sleep(0.02 * (number % 3))
    return number * number


def refuse() -> int:
    raise DataError(Reason.NO_PIXELS, "nothing there", hint="look elsewhere")


def die() -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return 0


def leave() -> int:
    os._exit(3)


def break_down() -> int:
    raise ZeroDivisionError("a bug")


def hoard() -> object:
    import torch

    return torch.empty(1 << 60, dtype=torch.uint8)


def travelling(prepares) -> Iterator[Job[int]]:
    for number, prepare in enumerate(prepares):
        yield Job(str(number), prepare, can_travel=True)


def test_order_is_kept_and_no_more_taken_in_than_allowed():
    taken = 0

    def jobs():
        nonlocal taken
        for number in range(30):
            taken += 1
            # Some cannot travel: they are prepared here, in their turn.
            prepare = partial(square, number) if number % 4 else (lambda number=number: square(number))
            yield Job(str(number), prepare, can_travel=bool(number % 4))

    given = 0
    for job, result in prepare_ahead(jobs(), 3, ahead=5):
        assert (job.id, result) == (str(given), given * given)
        given += 1
        assert taken <= given + 5
    assert given == 30


def test_what_is_refused_in_a_worker_is_refused_here_whole():
    (_, first), (_, second) = prepare_ahead(travelling([refuse, partial(square, 3)]), 1, ahead=2)
    assert isinstance(first, DataError)
    assert (first.code, first.hint) == ("NO_PIXELS", "look elsewhere")
    assert second == 9


@pytest.mark.parametrize(("end", "how"), [(die, "signal 9"), (leave, "exit code 3")])
@pytest.mark.parametrize("workers", [1, 2])
def test_a_worker_that_dies_costs_its_own_record_only(end, how, workers):
    prepares = [partial(square, 1), end, partial(square, 2), end, partial(square, 3)]
    results = [result for _, result in prepare_ahead(travelling(prepares), workers, ahead=4)]
    assert [results[0], results[2], results[4]] == [1, 4, 9]
    for error in (results[1], results[3]):
        assert isinstance(error, DataError)
        assert error.reason is Reason.CORRUPT
        assert how in str(error)


def test_an_idle_worker_that_dies_costs_nothing():
    import multiprocessing

    results = prepare_ahead(travelling([partial(square, number) for number in range(4)]), 1, ahead=1)
    assert next(results)[1] == 0
    for process in multiprocessing.active_children():
        process.kill()
        process.join()
    assert [result for _, result in results] == [1, 4, 9]


def test_a_bug_in_a_worker_is_a_bug_here():
    with pytest.raises(WorkerBugError, match="ZeroDivisionError"):
        list(prepare_ahead(travelling([break_down]), 1, ahead=1))


def test_no_memory_in_a_worker_is_no_memory_here_and_no_bug():
    with pytest.raises(MemoryError):
        list(prepare_ahead(travelling([hoard]), 1, ahead=1))


def test_leaving_early_leaves_no_process():
    import multiprocessing

    results = prepare_ahead(travelling([partial(square, number) for number in range(50)]), 2, ahead=6)
    next(results)
    assert multiprocessing.active_children()
    results.close()
    assert not multiprocessing.active_children()


def test_a_standing_worker_outlives_what_ends_its_process():
    import multiprocessing

    worker = StandingWorker()
    try:
        found = [
            worker.attempt(Job("", prepare, can_travel=True), timeout_s=limit)
            for prepare, limit in (
                (os.getpid, 60),
                (os.getpid, 60),
                (refuse, 60),
                (die, 60),
                (partial(time.sleep, 60), 0.3),
                (os.getpid, 60),
            )
        ]
        assert found[0] == found[1] != os.getpid()
        assert [error.code for error in found[2:5]] == ["NO_PIXELS", "CORRUPT", "UNREADABLE"]
        assert "more than 0.3 s" in str(found[4])
        assert found[5] not in (found[0], os.getpid())
        with pytest.raises(WorkerBugError, match="ZeroDivisionError"):
            worker.attempt(Job("", break_down, can_travel=True), timeout_s=60)
    finally:
        worker.close()
    assert not multiprocessing.active_children()
