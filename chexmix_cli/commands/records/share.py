"""What of a list of inputs one process does, and what decides its records: so that shares fit, and runs go on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chexmix_cli.commands.records.parts import Part, choose_part, numbered, own_batches
from chexmix_cli.commands.records.record_page import ENDING
from chexmix_cli.core.errors import SettingsError
from chexmix_cli.library.films import Film
from chexmix_cli.library.jobs.job import Job
from chexmix_cli.library.jobs.journal import Entry, Journal, flat_settings

if TYPE_CHECKING:
    from chexmix_cli.commands.shared.options import RunOptions
    from chexmix_cli.library.opened import OpenModel

#: Settings that change how fast records come, not what is in them.
_IDLE_SETTINGS = ("input.workers", "input.prefix_memory_mb", "ray.cpus", "ray.gpus", "ray.retries")
#: Common options that change what is in a record.
_OPTIONS = ("seed", "provenance", "keep_uids", "with_paths")


@dataclass(frozen=True, kw_only=True, slots=True)
class Share:
    """What a process does of a list, and what decides its records.

    Attributes:
        part: which share of the list.
        batch_size: inputs of a batch; shares get whole ones.
        identity: what decides the records, name to plain value.
    """

    part: Part
    batch_size: int
    identity: dict[str, Any]

    def journal(self, out: Path, *, is_anew: bool) -> Journal:
        """Return the journal of a run that writes this share's records into a file; errors as :class:`Journal`."""
        return Journal(out, self.identity, batch_size=self.batch_size, is_anew=is_anew)

    def select(
        self,
        jobs: Iterable[Job[Film]],
        journal: Journal | None,
        on_finished: Callable[[Job[Film], Entry], None],
    ) -> Iterator[Job[Film]]:
        """Yield the share's jobs that are still to be done; ``on_finished`` gets the others, with their entry."""
        for job in own_batches(_listed(numbered(iter(jobs)), journal), self.part, self.batch_size):
            entry = None if journal is None else journal.skip(job)
            if entry is None:
                yield job
            else:
                on_finished(job, entry)


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where work is done, and where its records go.

    Attributes:
        part: share of the inputs that is this process's.
        ray: address of the cluster that works in its place, or None.
        out: file of the records, or None.
    """

    part: Part
    ray: str | None
    out: Path | None

    @property
    def is_page(self) -> bool:
        """Return whether the records go into a page."""
        return self.out is not None and self.out.suffix.lower() == ENDING

    def counts(self, run: RunOptions) -> bool:
        """Return whether the inputs are counted before the first is read: for a bar that knows its length."""
        return run.console.shows_progress and self.part.count == 1


def take_place(
    run: RunOptions, shard: str | None, ray: str | None, out: Path | None = None
) -> tuple[RunOptions, Place]:
    """Return where ``--shard`` or torchrun, and ``--ray``, put this run, and the options with its device and files.

    Raises:
        SettingsError: if it is no share, or a page is asked for of one.
    """
    place = Place(part=choose_part(shard), ray=ray, out=out)
    if place.part.count > 1 and (run.html is not None or place.is_page):
        raise SettingsError("of one share of the inputs", where="--html", expected="all inputs in one process")
    quarantine = None if run.quarantine is None else place.part.file(run.quarantine)
    return replace(run, device=place.part.device(run.device), quarantine=quarantine), place


def share_of(
    command: str, run: RunOptions, settings: Any, model: OpenModel, part: Part, files: Iterable[Path] = (), **asked: Any
) -> Share:
    """Return a process's share, and what decides its records.

    Args:
        command: that makes them.
        run: common options.
        settings: of the command, with ``input``.
        model: in use.
        part: of the list.
        files: that the records depend on besides the weights.
        **asked: the command's own flags.
    """
    from chexmix_cli.core.settings.load import to_dict
    from chexmix_cli.core.weights.fingerprint import file_sha256

    made = {**model.provenance(seed=run.seed), "device": model.device.type}
    chosen = {name: value for name, value in flat_settings(to_dict(settings)).items() if name not in _IDLE_SETTINGS}
    known = {path.name: file_sha256(path) for path in files if path.is_file()}
    options = {name: getattr(run, name) for name in _OPTIONS}
    identity = {"command": command, **made, **options, **flat_settings(asked), **chosen, **known}
    identity |= {"part": part.index, "num_parts": part.count}
    return Share(part=part, batch_size=settings.input.batch_size, identity=identity)


def _listed(jobs: Iterator[Job[Film]], journal: Journal | None) -> Iterator[Job[Film]]:
    for job in jobs:
        if journal is not None:
            journal.listed(job)
        yield job
