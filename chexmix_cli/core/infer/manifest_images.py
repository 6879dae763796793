"""A manifest's images for evaluation and indexing: as pixels, or as codes. What cannot be read is named, never dropped.

Codes are made from the images, or taken from token shards that ``chexmix tokenize -o`` made before.

N images, P image positions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from chexmix_cli.core.data.images.geometry import fit
from chexmix_cli.core.data.images.load import load_image
from chexmix_cli.core.data.manifest import ManifestRow
from chexmix_cli.core.data.presets import ResolvedPreset
from chexmix_cli.core.data.shards import ShardSet
from chexmix_cli.core.data.sources import Source
from chexmix_cli.core.errors import DataError, Reason
from chexmix_cli.core.infer.image_tokenizer import ImageTokenizer
from chexmix_cli.core.settings.inference import InputSettings


@dataclass(frozen=True, slots=True)
class EncodedRows:
    """Rows with their codes.

    Attributes:
        rows: those whose image could be read, in order.
        codes_NP: their codes, (N, P) uint16, raster order.
        failed: the others' ids, with the reason.
    """

    rows: list[ManifestRow]
    codes_NP: NDArray[np.uint16]
    failed: list[tuple[str, DataError]]


class StoredCodes:
    """The codes of images by id, in token shards; a view of the files."""

    def __init__(self, shards: ShardSet) -> None:
        self._shards = shards
        ids = [entry["id"] for entry in shards.index() if entry["status"] == "ok"]
        self._row = {row_id: row for row, row_id in enumerate(ids)}
        if len(self._row) < len(ids):
            raise DataError(
                Reason.BAD_RECORD,
                f"{len(ids) - len(self._row)} ids occur twice",
                where=str(shards.folder),
                expected="shards made from the manifest: chexmix tokenize - -o SHARDS < MANIFEST",
            )

    @classmethod
    def open(cls, folder: Path, *, codebook_hash: str, preset_hash: str) -> Self:
        """Return the codes in a folder of shards.

        Raises:
            DataError: if there are none, another image tokenizer or preset made them, or an id occurs twice.
        """
        shards = ShardSet.open(folder)
        shards.require(codebook_hash=codebook_hash, preset_hash=preset_hash)
        return cls(shards)

    def rows_of(self, rows: Sequence[ManifestRow]) -> tuple[tuple[ShardSet], NDArray[np.int64]]:
        """Return the set, and where in it the codes of several rows are, (N,); errors as :meth:`of`."""
        return (self._shards,), np.array([self._row_of(row) for row in rows], np.int64)

    def of(self, row: ManifestRow) -> NDArray[np.uint16]:
        """Return the codes of a row's image, (P,); DataError ``NOT_FOUND`` if the shards have none."""
        return self._shards.codes(self._row_of(row))

    def _row_of(self, row: ManifestRow) -> int:
        if row.id not in self._row:
            raise DataError(Reason.NOT_FOUND, "the token shards have no codes of this image", where=row.id)
        return self._row[row.id]


def read_rows(
    rows: Iterable[ManifestRow], preset: ResolvedPreset, settings: InputSettings
) -> Iterator[tuple[ManifestRow, NDArray[np.float32] | DataError]]:
    """Yield each row with what the model sees of its image, (C, Y, X) float32 in [-1, 1], or why there is none."""
    for row in rows:
        try:
            yield row, _pixels(row, preset, settings)
        except DataError as error:
            yield row, error


def encode_rows(
    rows: Sequence[ManifestRow],
    tokenizer: ImageTokenizer,
    preset: ResolvedPreset,
    settings: InputSettings,
    *,
    progress: Callable[[int, int | None], None],
    on_pixels: Callable[[NDArray[np.float32]], None] | None = None,
    stored: StoredCodes | None = None,
) -> EncodedRows:
    """Return the codes of rows.

    Args:
        rows: images.
        tokenizer: encodes.
        preset: how images are read; the model's own unless the user says otherwise.
        settings: bounds on what is read.
        progress: called with (rows done, rows in all).
        on_pixels: gets each image that could be read, (C, Y, X) float32 in [-1, 1], in order.
        stored: where codes are taken from; nothing is encoded, and images are read for ``on_pixels`` alone.
    """
    if stored is not None:
        return _stored_rows(rows, stored, preset, settings, progress, on_pixels)
    good: list[ManifestRow] = []
    failed: list[tuple[str, DataError]] = []

    def readable() -> Iterator[NDArray[np.float32]]:
        for done, (row, found) in enumerate(read_rows(rows, preset, settings), start=1):
            if isinstance(found, DataError):
                failed.append((row.id, found))
            else:
                good.append(row)
                if on_pixels is not None:
                    on_pixels(found)
                yield found
            progress(done, len(rows))

    codes_NP = tokenizer.encode_each(readable())
    return EncodedRows(good, codes_NP, failed)


def _stored_rows(
    rows: Sequence[ManifestRow],
    stored: StoredCodes,
    preset: ResolvedPreset,
    settings: InputSettings,
    progress: Callable[[int, int | None], None],
    on_pixels: Callable[[NDArray[np.float32]], None] | None,
) -> EncodedRows:
    good: list[ManifestRow] = []
    failed: list[tuple[str, DataError]] = []
    codes: list[NDArray[np.uint16]] = []
    for done, row in enumerate(rows, start=1):
        try:
            found_P = stored.of(row)
            if on_pixels is not None:
                on_pixels(_pixels(row, preset, settings))
        except DataError as error:
            failed.append((row.id, error))
        else:
            good.append(row)
            codes.append(found_P)
        progress(done, len(rows))
    return EncodedRows(good, np.stack(codes) if codes else np.empty((0, 0), np.uint16), failed)


def _pixels(row: ManifestRow, preset: ResolvedPreset, settings: InputSettings) -> NDArray[np.float32]:
    image = load_image(Source.named(row.file), preset.intensity, settings).image
    return fit(image, preset.image, preset.channels)
