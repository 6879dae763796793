"""``--ray``: the batches of a record loop, worked off by a cluster."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from chexmix_cli.core.errors import SettingsError
from chexmix_cli.library.films import Film
from chexmix_cli.library.jobs.cluster import Cluster
from chexmix_cli.library.jobs.job import Job, Prepared, Record

if TYPE_CHECKING:
    from chexmix_cli.core.data.sources import Source
    from chexmix_cli.core.settings.inference import RaySettings
    from chexmix_cli.library.opened import OpenModel


def with_sources(
    process: Callable[[list[Prepared]], Sequence[Record]], prepared: list[Prepared]
) -> list[tuple[Record, Source | None]]:
    """Return the records of a batch, each with the file that its input was read from."""
    sources = [getattr(one, "source", None) for one in prepared]
    return list(zip(process(prepared), sources, strict=True))


class Records(Protocol):
    """What a command makes records with."""

    model: OpenModel

    def process(self, films: list[Film], /) -> list[Record]:
        """Return the result fields of a batch."""


@dataclass(frozen=True, slots=True)
class _Opened:
    """Records with the files of their films, as the loop takes them."""

    records: Records

    def process(self, films: list[Film]) -> Sequence[Any]:
        return with_sources(self.records.process, films)

    def facts(self) -> Mapping[str, Any]:
        made = self.records.model.provenance()
        return {**made, "device": self.records.model.device.type}


@dataclass(frozen=True, slots=True)
class _Work:
    """Opens a command's records in a process of the cluster; travels there by pickle."""

    make: Callable[[str | None], Records]

    def __call__(self, device: str | None) -> _Opened:
        return _Opened(self.make(device))


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """A cluster and what it is to do.

    Args:
        cluster: that works.
        work: what it opens.
        facts: what decides its records here, which must be the same there.
    """

    cluster: Cluster
    work: _Work
    facts: Mapping[str, Any]

    def batches(
        self, jobs: Iterator[Job[Any]], *, batch_size: int, group: int, num_before: int
    ) -> Generator[list[tuple[Job[Any], Any]], None, None]:
        """Yield batches: every job with its record and file, or its error."""
        return self.cluster.batches(
            jobs, self.work, self.facts, batch_size=batch_size, group=group, num_before=num_before
        )


def elsewhere(
    address: str | None,
    settings: RaySettings,
    make: Callable[[str | None], Records],
    records: Records,
    here: Mapping[str, object] | None = None,
) -> Elsewhere | None:
    """Return where batches are worked off, or None for this process.

    Args:
        address: of ``--ray``.
        settings: what a batch takes.
        make: gives the records of a command, on a device by name or on the one asked for; picklable.
        records: the same, in this process.
        here: flags that write or show something where the model is, and so only without ``--ray``.

    Raises:
        SettingsError: if one of them is given.
    """
    if address is None:
        return None
    for flag, value in (here or {}).items():
        if value:
            raise SettingsError("cannot be combined with --ray", where=flag, expected="one of the two")
    cluster = Cluster(address, settings, needs_gpu=records.model.device.type == "cuda")
    return Elsewhere(cluster, _Work(make), _Opened(records).facts())
