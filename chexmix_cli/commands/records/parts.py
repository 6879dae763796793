"""One list of inputs, worked on by several processes: numbering, whose turn an input is, ids that occur twice."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn

from chexmix_cli.core.errors import DataError, Reason, SettingsError
from chexmix_cli.library.films import Film
from chexmix_cli.library.jobs.job import Job, Prepared


@dataclass(frozen=True, slots=True)
class Part:
    """A share of the inputs, counted from 0.

    Attributes:
        local_rank: of a process that torchrun started, which counts the processes of one machine; else None.
    """

    index: int = 0
    count: int = 1
    local_rank: int | None = None

    @property
    def folder_name(self) -> str | None:
        """Return the folder that keeps this part's shards apart from the others', or None if it is all."""
        return None if self.count == 1 else f"part-{self.index:03d}-of-{self.count:03d}"

    def file(self, path: Path) -> Path:
        """Return the file that keeps what this part writes apart from the others', beside the one asked for."""
        return path if self.count == 1 else path.with_name(f"{path.stem}.{self.folder_name}{path.suffix}")

    def device(self, name: str) -> str:
        """Return the device for this process, given what the user asked for: each takes another GPU."""
        if self.local_rank is None or name not in ("auto", "cuda"):
            return name
        import torch

        return f"cuda:{self.local_rank % torch.cuda.device_count()}" if torch.cuda.is_available() else name


def choose_part(text: str | None) -> Part:
    """Return the share that ``--shard I/N`` names, else the one torchrun gives this process, else everything.

    Raises:
        SettingsError: if it is not a share.
    """
    if text is not None:
        found = re.fullmatch(r"(\d+)/(\d+)", text)
        if found is None or int(found[1]) >= int(found[2]):
            raise SettingsError(f"is {text!r}", where="--shard", expected="I/N, with I from 0 to N-1")
        return Part(int(found[1]), int(found[2]))
    rank, size = os.environ.get("RANK"), os.environ.get("WORLD_SIZE")
    if rank is None or size is None:
        return Part()
    try:
        return Part(int(rank), int(size), int(os.environ.get("LOCAL_RANK", rank)))
    except ValueError:
        raise SettingsError(f"are {rank!r} and {size!r}", where="RANK and WORLD_SIZE", expected="numbers") from None


def numbered(jobs: Iterator[Job[Film]]) -> Iterator[Job[Film]]:
    """Yield jobs with their index in the list."""
    for order, job in enumerate(jobs):
        yield replace(job, order=order)


def own(jobs: Iterator[Job[Film]], part: Part) -> Iterator[Job[Film]]:
    """Yield the jobs of a share: studies go round in the order they are first met, all of a study to the same share."""
    if part.count == 1:
        yield from jobs
        return
    num_studies = 0
    turns: dict[str, int] = {}
    for job in jobs:
        if job.study is None or job.study not in turns:
            turn = num_studies % part.count
            num_studies += 1
            if job.study is not None:
                turns[job.study] = turn
        else:
            turn = turns[job.study]
        if turn == part.index:
            yield job


def own_batches(jobs: Iterator[Job[Film]], part: Part, batch_size: int) -> Iterator[Job[Film]]:
    """Yield the jobs of a share, batches going round: a film is computed with the same others as in one process."""
    return (job for job in jobs if job.order // batch_size % part.count == part.index)


def refuse_repeats(jobs: Iterator[Job[Prepared]]) -> Iterator[Job[Prepared]]:
    """Yield jobs; one whose id occurred before gives an error, so that no id has two rows."""
    from chexmix_cli.core.data.shards.id_keys import SeenIds

    seen = SeenIds()
    for job in jobs:
        yield job if seen.add(job.id) else replace(job, prepare=_refuse, can_travel=False)


def _refuse() -> NoReturn:
    raise DataError(Reason.DUPLICATE, "the id occurs twice", hint="ids name rows: they must differ")
