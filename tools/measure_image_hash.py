"""Measure how well hashes tell copies of a chest film from films of other patients: the figures of docs/datasets.md.

    python tools/measure_image_hash.py /data/radiographs

The folder has ``index.jsonl`` with ``file``, ``dataset`` and ``patient``; one film a patient is used, of each data set
at most ``--most``.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from chexmix_cli.core.data.images.image_hash import HASH_BITS, image_hash

Bits = NDArray[np.bool_]


def ours(image: Image.Image) -> Bits:
    """Return the hash that ``chexmix data check`` uses, 255 bits."""
    return np.unpackbits(np.frombuffer(image_hash(image), np.uint8))[:HASH_BITS].astype(bool)


def short(image: Image.Image) -> Bits:
    """Return the usual 63 bits of an 8 x 8 cosine transform."""
    values = np.asarray(image.resize((32, 32), Image.Resampling.BOX), dtype=np.float64)
    steps = np.arange(32)
    cosines = np.cos(np.pi * (2 * steps[None] + 1) * steps[:8, None] / 64)
    spectrum = (cosines @ values @ cosines.T).ravel()[1:]
    return spectrum > np.median(spectrum)


def difference(image: Image.Image) -> Bits:
    """Return the usual 64 bits of differences between neighbours."""
    values = np.asarray(image.resize((9, 8), Image.Resampling.BOX), dtype=np.int16)
    return (values[:, 1:] > values[:, :-1]).ravel()


def as_jpeg(image: Image.Image) -> Image.Image:
    """Return the picture after JPEG compression at quality 50."""
    data = io.BytesIO()
    image.save(data, "JPEG", quality=50)
    return Image.open(io.BytesIO(data.getvalue()))


def cropped(image: Image.Image) -> Image.Image:
    """Return the picture without a hundredth at each edge."""
    x, y = image.width // 100, image.height // 100
    return image.crop((x, y, image.width - x, image.height - y))


HASHES: dict[str, Callable[[Image.Image], Bits]] = {"ours": ours, "cosine, 63": short, "difference, 64": difference}
VARIANTS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "JPEG, quality 50": as_jpeg,
    "half the size": lambda image: image.resize((image.width // 2, image.height // 2), Image.Resampling.LANCZOS),
    "gamma 0.7": lambda image: image.point([round(255 * (value / 255) ** 0.7) for value in range(256)]),
    "histogram equalised": ImageOps.equalize,
    "20 % brighter, whites clipped": lambda image: image.point([min(255, round(value * 1.2)) for value in range(256)]),
    "1 % cropped at each edge": cropped,
    "turned by 2 degrees": lambda image: image.rotate(2),
}


def choose(folder: Path, most: int) -> list[Path]:
    """Return one film a patient, the first ``most`` patients of each data set."""
    films: dict[tuple[str, str], str] = {}
    for line in (folder / "index.jsonl").read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        films.setdefault((entry["dataset"], entry["patient"]), entry["file"])
    datasets = dict.fromkeys(dataset for dataset, _ in films)
    chosen = ([file for (name, _), file in films.items() if name == dataset][:most] for dataset in datasets)
    return [folder / file for files in chosen for file in files]


def main() -> int:
    """Print the distances, in bits."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--most", type=int, default=900, help="patients of a data set")
    options = parser.parse_args()
    images = [Image.open(path).convert("L") for path in choose(options.folder, options.most)]
    for name, function in HASHES.items():
        found = np.stack([function(image) for image in images])
        signs = found.astype(np.float32) * 2 - 1
        distances = np.sort(((found.shape[1] - signs @ signs.T) / 2)[np.triu_indices(len(found), 1)])
        rare = distances[len(distances) // 100_000]
        print(f"{name}: {len(distances)} pairs of patients, nearest {distances[0]:.0f}, 1 in 100,000 {rare:.0f}")
        for title, change in VARIANTS.items():
            moved = [
                int((function(change(image)) != bits).sum())
                for image, bits in zip(images[::8], found[::8], strict=True)
            ]
            print(f"    {title}: 95 % up to {np.percentile(moved, 95):.0f}, most {max(moved)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
