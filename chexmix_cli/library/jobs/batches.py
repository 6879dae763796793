"""Jobs worked off in batches: one result or error a job, in order; one bad input never spoils the others.

A batch is so many jobs in a row, good or bad. What a film is computed together with shows in the last digits of its
numbers, so batches are a function of the list alone: not of where a run before this one stopped, nor of who does what.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing

from chexmix_cli.core.errors import ChexmixError
from chexmix_cli.library.jobs.job import RECORD_ERRORS, Job, Prepared, Result, attempt
from chexmix_cli.library.jobs.workers import prepare_ahead


def run_batches(
    jobs: Iterator[Job[Prepared]],
    process: Callable[[list[Prepared]], Sequence[Result]],
    *,
    batch_size: int,
    workers: int = 0,
    group: int = 0,
    num_before: int = 0,
    stops_at_error: bool = False,
    settled: Callable[[], None] | None = None,
) -> Generator[tuple[Job[Prepared], Result | ChexmixError], None, None]:
    """Yield every job with its result, or with the error that it has in place of one, in order.

    Args:
        jobs: the inputs to come.
        process: turns prepared inputs into as many results. A batch that it fails on is tried again in its single
            inputs, so that the error falls on those that cause it.
        batch_size: jobs of a batch; those of them that can be prepared are processed together.
        workers: processes that prepare inputs ahead; 0 prepares each here when its turn comes.
        group: a batch ends with every so many jobs, too; 0 is never.
        num_before: jobs of the first group that were done before these.
        stops_at_error: an error is given out at once, with what waits before it, because nothing after it counts.
        settled: called when all that was prepared has been given out and taken: a run that began behind it would form
            the same batches.
    """
    waiting: list[tuple[Job[Prepared], Prepared | ChexmixError]] = []
    with closing(_prepared(jobs, workers, batch_size)) as prepared:
        for number, item in enumerate(prepared, start=num_before + 1):
            waiting.append(item)
            num_good = sum(not isinstance(found, ChexmixError) for _, found in waiting)
            has_failed = num_good < len(waiting)
            # Nothing waits without need: an error with nothing in front of it is out at once.
            is_due = num_good == 0 or ends_batch(number, batch_size, group)
            if is_due or (has_failed and stops_at_error):
                yield from _finished(waiting, process)
                waiting.clear()
                if settled is not None and ends_batch(number, batch_size, group):
                    settled()
        yield from _finished(waiting, process)
        if settled is not None:
            settled()


def ends_batch(number: int, batch_size: int, group: int) -> bool:
    """Return whether a batch ends with a job, which is counted from 1; the arguments are those of ``run_batches``."""
    place = (number - 1) % group + 1 if group else number
    return place % batch_size == 0 or place == group


def _prepared(
    jobs: Iterator[Job[Prepared]], workers: int, batch_size: int
) -> Generator[tuple[Job[Prepared], Prepared | ChexmixError], None, None]:
    if workers:
        yield from prepare_ahead(jobs, workers, ahead=2 * workers + batch_size)
    else:
        for job in jobs:
            found = attempt(job)
            yield job, found


def _finished(
    waiting: Sequence[tuple[Job[Prepared], Prepared | ChexmixError]],
    process: Callable[[list[Prepared]], Sequence[Result]],
) -> Iterator[tuple[Job[Prepared], Result | ChexmixError]]:
    results = iter(_processed([item for _, item in waiting if not isinstance(item, ChexmixError)], process))
    for job, item in waiting:
        yield job, item if isinstance(item, ChexmixError) else next(results)


def _processed(
    items: list[Prepared], process: Callable[[list[Prepared]], Sequence[Result]]
) -> list[Result | ChexmixError]:
    if not items:
        return []
    try:
        return list(process(items))
    except RECORD_ERRORS as error:
        if len(items) == 1:
            return [error]
    # One of them spoils the batch: each gets its own chance.
    return [result for item in items for result in _processed([item], process)]
