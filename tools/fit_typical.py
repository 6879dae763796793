"""Fit what the films are like that a model was trained on: ``typical.safetensors``, beside its weights.

    python tools/fit_typical.py ../shared/data [--weights DIR]

DATA has ``radiographs`` and ``adult_normals``, each with ``index.jsonl``. Fitted on train films as users have them, not
on re-encoded ones; every data set counts the same, of each at most ``--films``, drawn by the seed. The threshold is
what one train film in a hundred exceeds. ``tools/measure_typicality.py`` measures it.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from fit_film_pose import films
from numpy.typing import NDArray
from PIL import Image

from chexmix_cli.core.infer.typicality import Typical, codes_statistics
from chexmix_cli.core.weights.files import TYPICAL_FILE
from chexmix_cli.library.films import film_of_picture
from chexmix_cli.library.model import Model, load

FOLDERS = ("radiographs", "adult_normals")
_SHARE = 0.01
_BATCH = 8


def opened(path: Path) -> Image.Image:
    """Return a picture as 8-bit grey."""
    with Image.open(path) as image:
        return image.convert("L")


def statistics(model: Model, pictures: Iterable[Image.Image]) -> NDArray[np.float64]:
    """Return the statistics of pictures as the model reads them, (N, D)."""
    waiting, found = iter(pictures), []
    while batch := [film_of_picture(picture, model.preset).pixels for picture in islice(waiting, _BATCH)]:
        codes = model.images.encode(np.stack([pixels for pixels in batch if pixels is not None])).tolist()
        found.append(codes_statistics(model.decoder, model.weights.settings.vocabulary, codes))
    return np.concatenate(found)


def chosen(data: Path, split: str, most: int, seed: int) -> dict[str, list[Path]]:
    """Return films of a split by data set, at most so many of each."""
    found: dict[str, list[Path]] = {}
    for row in (row for folder in FOLDERS for row in films(data / folder, split)):
        found.setdefault(row["dataset"], []).append(row["path"])
    return {name: random.Random(seed).sample(paths, min(most, len(paths))) for name, paths in found.items()}


def shown(paths: Sequence[Path], what: str) -> Iterator[Image.Image]:
    """Yield pictures, and say how far it is."""
    for number, path in enumerate(paths, start=1):
        yield opened(path)
        if number % 100 == 0 or number == len(paths):
            print(f"{what}: {number} of {len(paths)}", file=sys.stderr, flush=True)


def main(arguments: list[str] | None = None) -> int:
    """Fit and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--weights", help="default: the embedded model")
    parser.add_argument("-o", "--output", type=Path, help=f"default: {TYPICAL_FILE} of the weights")
    parser.add_argument("--films", type=int, default=400, help="most films of a data set")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    model = load(options.weights, device="cpu", dtype="float32")
    sets = chosen(options.data, "train", options.films, options.seed)
    parts = {name: statistics(model, shown(paths, name)) for name, paths in sets.items()}
    provenance: dict[str, Any] = {"films": {name: len(part) for name, part in parts.items()}, "seed": options.seed}
    typical = Typical.fit(
        np.concatenate(list(parts.values())),
        np.concatenate([np.full(len(part), 1 / len(part)) for part in parts.values()]),
        share=_SHARE,
        model=model.weights.fingerprint,
        provenance=provenance,
    )
    path = options.output or model.weights.path / TYPICAL_FILE
    typical.save(path)
    above = {name: float((typical.scores(part) > typical.threshold).mean()) for name, part in parts.items()}
    print(f"{path}: threshold {typical.threshold:.3f}, above it {above}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
