"""The images of a manifest: are they there, can they be read, is one of them another one."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np

from chexmix_cli.core.data.images.image_hash import HASH_BYTES, image_hash, near_pairs
from chexmix_cli.core.data.images.load import load_image
from chexmix_cli.core.data.sources import Source
from chexmix_cli.core.data.studies.inputs import Refusal, study_of_source
from chexmix_cli.core.errors import DataError, MachineError, Reason
from chexmix_cli.core.settings.datasets import ImageCheckSettings
from chexmix_cli.core.settings.inference import InputSettings

#: What the two images of a pair do not share.
Across = Literal["splits", "owners", "nothing"]

#: Files handed to a process at once, and to all of them before the first results are waited for.
_CHUNK, _CHUNKS_AHEAD = 16, 8
_MOST_NOTES = 20


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """What reading one image gave.

    Attributes:
        digest: of its 8-bit pixels and their shape; None if it was not read.
        hash: of what it shows; None if it was not read.
        failure: reason code, None if all is well.
        notes: what every command would note of it.
    """

    digest: bytes | None = None
    hash: bytes | None = None
    failure: str | None = None
    notes: tuple[str, ...] = ()


def examine_images(
    files: Sequence[Source], settings: ImageCheckSettings, progress: Callable[[int, int], None]
) -> Iterator[ImageFacts]:
    """Yield the facts of each file, in order.

    Raises:
        MachineError: if a process dies, of memory most likely.
    """
    workers = min(settings.workers or os.cpu_count() or 1, -(-len(files) // _CHUNK))
    if settings.read == "exists" or workers <= 1:
        for done, file in enumerate(files, start=1):
            yield examine_image(file, settings)
            progress(done, len(files))
        return
    ahead = workers * _CHUNK * _CHUNKS_AHEAD
    # Spawned, not forked: a fork would inherit the locks of whatever threads the caller runs.
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            for start in range(0, len(files), ahead):
                part = files[start : start + ahead]
                yield from pool.map(partial(examine_image, settings=settings), part, chunksize=_CHUNK)
                progress(start + len(part), len(files))
        except BrokenProcessPool:
            raise MachineError(
                "a process that reads images died", where=f"images.workers={workers}", hint="--set images.workers=1"
            ) from None


def examine_image(source: Source, settings: ImageCheckSettings) -> ImageFacts:
    """Return the facts of one file; what goes wrong is one of them. Its header is asked as other commands ask it."""
    if settings.read == "exists":
        return ImageFacts(failure=None if os.path.isfile(source.path) else Reason.NOT_FOUND.value)
    bounds = InputSettings(views="all", max_file_mb=settings.max_file_mb, max_pixels=settings.max_pixels)
    study = study_of_source(source, bounds, "")
    if isinstance(study, Refusal):
        return ImageFacts(failure=study.error.code)
    try:
        loaded = load_image(source, "voi", bounds)
    except DataError as error:
        return ImageFacts(failure=error.code)
    image, notes = loaded.image, (*study.chosen.notes, *loaded.notes)
    digest = hashlib.sha256(f"{image.mode} {image.size}".encode() + image.tobytes()).digest()
    return ImageFacts(digest=digest, hash=image_hash(image), notes=notes)


class ImageTally:
    """Counts failures and twins.

    Args:
        settings: how near is a near-duplicate.
        examples: how many of each are named.
    """

    def __init__(self, settings: ImageCheckSettings, examples: int) -> None:
        self._settings, self._few = settings, examples
        self._failures: dict[str, list[str]] = {}
        self._notes: Counter[str] = Counter()
        self._first: dict[bytes, int] = {}
        self._duplicates: list[tuple[int, int]] = []
        self._seen: list[tuple[str, str | None, str]] = []
        self._hashes = bytearray()
        self._pairs: dict[Across, tuple[int, list[Any]]] | None = None

    def add(self, row_id: str, split: str | None, owner: str, facts: ImageFacts) -> None:
        """Count one image; ``owner`` is the key of those whose images belong together."""
        if facts.failure is not None:
            self._failures.setdefault(facts.failure, []).append(row_id)
        self._notes.update(facts.notes)
        if facts.digest is None or facts.hash is None:
            return
        index = len(self._seen)
        first = self._first.setdefault(facts.digest, index)
        if first != index:
            self._duplicates.append((first, index))
        self._seen.append((row_id, split, owner))
        self._hashes += facts.hash

    @property
    def failures(self) -> tuple[int, list[Any]]:
        """Return how many images failed, and the first ids of each reason."""
        examples = [
            {"code": code, "count": len(ids), "ids": ids[: self._few]} for code, ids in sorted(self._failures.items())
        ]
        return sum(len(ids) for ids in self._failures.values()), examples

    @property
    def reasons(self) -> str:
        """Return the codes of what failed with how many there are of each, in brackets; empty if nothing did."""
        counts = ", ".join(f"{code}: {len(ids)}" for code, ids in sorted(self._failures.items()))
        return f" ({counts})" if counts else ""

    @property
    def duplicates(self) -> tuple[int, list[Any]]:
        """Return how many images repeat an earlier one, and the first pairs."""
        return len(self._duplicates), [self._ids(pair) for pair in self._duplicates[: self._few]]

    def pairs(self, across: Across) -> tuple[int, list[Any]]:
        """Return how many twins there are, and the first of them.

        Args:
            across: ``splits``: the same or nearly the same picture in two splits; ``owners``: nearly the same under the
                names of two owners, in one split; ``nothing``: of one owner in one split.
        """
        if self._pairs is None:
            counts: dict[Across, int] = dict.fromkeys(("splits", "owners", "nothing"), 0)
            examples: dict[Across, list[Any]] = {kind: [] for kind in counts}
            for left, right, distance in self._twins():
                kind = self._kind(left, right)
                counts[kind] += 1
                if len(examples[kind]) < self._few:
                    examples[kind].append({"ids": self._ids((left, right)), "bits": distance})
            self._pairs = {kind: (counts[kind], examples[kind]) for kind in counts}
        return self._pairs[across]

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as plain values."""
        count, examples = self.pairs("nothing")
        return {
            "read": self._settings.read,
            "readable": len(self._seen) if self._settings.read == "pixels" else None,
            "notes": dict(self._notes.most_common(_MOST_NOTES)),
            "near_duplicates_within_a_patient": {"count": count, "examples": examples},
        }

    def _twins(self) -> Iterator[tuple[int, int, int | None]]:
        """Yield exact duplicates that are in two splits (without a distance), and all pairs that are only near."""
        yield from ((left, right, None) for left, right in self._duplicates if self._kind(left, right) == "splits")
        exact = set(self._duplicates)
        hashes_NW = np.frombuffer(bytes(self._hashes), np.uint8).reshape(-1, HASH_BYTES)
        for left, right, distance in near_pairs(hashes_NW, self._settings.near_bits):
            if (left, right) not in exact:
                yield left, right, distance

    def _kind(self, left: int, right: int) -> Across:
        (_, split, owner), (_, other_split, other_owner) = self._seen[left], self._seen[right]
        if split is not None and other_split is not None and split != other_split:
            return "splits"
        return "nothing" if owner == other_owner else "owners"

    def _ids(self, pair: tuple[int, int]) -> list[str]:
        return [self._seen[index][0] for index in pair]
