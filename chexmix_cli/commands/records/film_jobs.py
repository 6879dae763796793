"""From arguments or stdin to one job a record."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from chexmix_cli.commands.records.streams import read_stdin
from chexmix_cli.library.films import Film, FilmReader
from chexmix_cli.library.jobs.job import Job, raiser


def film_jobs(arguments: Sequence[str], reader: FilmReader, *, counted: bool = False) -> Iterable[Job[Film]]:
    """Return a job for every record the inputs will give, in order.

    Args:
        arguments: of the command line; ``["-"]`` is stdin.
        reader: of the model in use.
        counted: look through all files first, so that the jobs have a length; not of stdin, which may not end.
    """
    if "-" in arguments:
        return _stdin_jobs(reader)
    return list(reader.jobs(arguments)) if counted else reader.jobs(arguments)


def _stdin_jobs(reader: FilmReader) -> Iterator[Job[Film]]:
    # Paths are grouped into studies, so they wait for each other; records go through one by one.
    paths: dict[str, str] = {}
    for line in read_stdin():
        if line.path is not None:
            paths[f"line {line.number}"] = line.path
        elif line.problem is not None:
            yield Job(f"line {line.number}", raiser(line.problem))
        else:
            yield reader.record_job(line.record or {}, line=line.number)
    if paths:
        yield from reader.jobs(list(paths.values()), list(paths))
