"""A manifest's images for evaluation and indexing: as pixels, or as codes. What cannot be read is named, never dropped.

N images, P image positions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from chexmix_cli.core.data.geometry import fit
from chexmix_cli.core.data.manifest import ManifestRow
from chexmix_cli.core.data.pixels import load_image
from chexmix_cli.core.data.presets import ResolvedPreset
from chexmix_cli.core.data.sources import Source
from chexmix_cli.core.errors import DataError
from chexmix_cli.core.infer.images import ImageTokenizer
from chexmix_cli.core.settings.inference import InputSettings

#: Images read before the next batch is encoded; the tokenizer bounds what passes the network together.
_READ_AHEAD = 32


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


def read_rows(
    rows: Iterable[ManifestRow], preset: ResolvedPreset, settings: InputSettings
) -> Iterator[tuple[ManifestRow, NDArray[np.float32] | DataError]]:
    """Yield each row with what the model sees of its image, (C, Y, X) float32 in [-1, 1], or why there is none."""
    for row in rows:
        try:
            image = load_image(Source(row.file), preset.intensity, settings).image
            yield row, fit(image, preset.image, preset.channels)
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
) -> EncodedRows:
    """Return the codes of rows.

    Args:
        rows: images.
        tokenizer: encodes.
        preset: how images are read; the model's own unless the user says otherwise.
        settings: bounds on what is read.
        progress: called with (rows done, rows in all).
        on_pixels: gets each image that could be read, (C, Y, X) float32 in [-1, 1], in order.
    """
    good: list[ManifestRow] = []
    failed: list[tuple[str, DataError]] = []
    codes = [np.empty((0, tokenizer.settings.vocabulary.tokens_per_image), np.uint16)]
    waiting: list[NDArray[np.float32]] = []
    for done, (row, found) in enumerate(read_rows(rows, preset, settings), start=1):
        if isinstance(found, DataError):
            failed.append((row.id, found))
        else:
            good.append(row)
            waiting.append(found)
            if on_pixels is not None:
                on_pixels(found)
        if waiting and (len(waiting) == _READ_AHEAD or done == len(rows)):
            codes.append(tokenizer.encode(np.stack(waiting)).numpy().astype(np.uint16))
            waiting.clear()
        progress(done, len(rows))
    return EncodedRows(good, np.concatenate(codes), failed)
