"""A manifest's train and val rows, and the codes of their images. N examples, V variants of an image, P positions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from chexmix_cli.core.data.manifest import ManifestRow, read_manifest
from chexmix_cli.core.errors import TrainingError
from chexmix_cli.core.infer.image_tokenizer import ImageTokenizer
from chexmix_cli.core.models.vqgan import Vqgan
from chexmix_cli.core.settings.finetuning import FilmSettings
from chexmix_cli.core.settings.model import ModelSettings
from chexmix_cli.core.settings.training import DocumentSettings
from chexmix_cli.core.train.examples.films import Films, draw_change, load_films
from chexmix_cli.core.train.order import step_generator

Progress = Callable[[str, int, int], None]
Codes = NDArray[np.uint16]
#: What says how many changed encodings of an image there are, and how large the changes.
Changes = DocumentSettings | FilmSettings

#: Keeps the randomness of encoding apart from that of training steps, which count from 0.
_STREAM = 1_000_003


def read_splits(manifest: Path) -> dict[str, list[ManifestRow]]:
    """Return the ``train`` and ``val`` rows of a manifest; TrainingError if there are none of one."""
    rows = {split: list(read_manifest(manifest, split=split)) for split in ("train", "val")}
    for split, found in rows.items():
        if not found:
            raise TrainingError(f"no row with split {split!r}", where=manifest.name, expected="train and val rows")
    return rows


def training_tokenizer(vqgan: Vqgan, model: ModelSettings) -> ImageTokenizer:
    """Return the image tokenizer that encodes examples; how many it takes together is not a setting of training."""
    return ImageTokenizer(vqgan, model, memory_hint=None)


def encode_splits(
    rows: Mapping[str, Sequence[ManifestRow]],
    vqgan: Vqgan,
    model: ModelSettings,
    changes: Changes,
    *,
    seed: int,
    progress: Progress,
) -> dict[str, Codes]:
    """Return the codes of every split, (N, V, P): all variants of train images, of every other split the images alone.

    Args:
        rows: of each split.
        vqgan: trained image tokenizer.
        model: its settings.
        changes: number and size of the changes.
        seed: of the changes.
        progress: called with (what, done, in all).

    Raises:
        DataError: naming the row, if an image cannot be read.
        MachineError: if memory runs out.
    """
    tokenizer = training_tokenizer(vqgan, model)
    codes: dict[str, Codes] = {}
    for split, found in rows.items():

        def told(done: int, total: int, split: str = split) -> None:
            progress(f"encode {split}", done, total)

        films = load_films(found, model, progress)
        variants = changes.variants if split == "train" else 1
        codes[split] = encode_films(tokenizer, films, changes, variants=variants, seed=seed, progress=told)
    return codes


def encode_films(
    tokenizer: ImageTokenizer,
    films: Films,
    changes: Changes,
    *,
    variants: int,
    seed: int,
    progress: Callable[[int, int], None],
) -> Codes:
    """Return the codes of every film, (N, V, P) uint16; variant 0 is the film as it is.

    Args:
        tokenizer: trained image tokenizer.
        films: images of one split.
        changes: size of the changes.
        variants: encodings of each film.
        seed: of the changes.
        progress: called with (encodings done, encodings in all).
    """

    def changed(index: int, variant: int) -> NDArray[np.float32]:
        draw = draw_change(step_generator(seed, _STREAM + index * variants + variant))
        crop, intensity = changes.crop_jitter, changes.intensity_jitter
        return films.changed(index, draw, crop=crop, intensity=intensity, flip=False)

    def views() -> Iterator[NDArray[np.float32]]:
        for variant in range(variants):
            for index in range(len(films)):
                yield films.exact(index) if variant == 0 else changed(index, variant)
                progress(variant * len(films) + index + 1, variants * len(films))

    codes_VNP = tokenizer.encode_each(views()).reshape(variants, len(films), -1)
    return np.ascontiguousarray(codes_VNP.swapaxes(0, 1))
