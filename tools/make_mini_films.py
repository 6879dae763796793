"""Write the films that the embedded model is trained from: every source at one size, through one random re-encoding.

    python tools/make_mini_films.py ../shared/data -o films [--copies nih14=3 --copies hannover=2]

The sources come at several sizes through several encoders, and one of them is nearly all normal: a model could tell the
source, by its sharpness or its JPEG blocks, in place of the disease. So every film, of training and validation alike,
is padded to a square, brought to one size with a filter drawn at random, blurred a little and written as a JPEG of
random quality. Training films may have further copies, changed as labels allow: turned up to 7 degrees, scaled,
shifted, with other contrast and noise; never mirrored. What is drawn follows from the seed, the film's name and the
number of the copy.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

SIDE_PX = 224
FOLDERS = ("radiographs", "adult_normals")
_FILTERS = (Image.Resampling.BOX, Image.Resampling.BILINEAR, Image.Resampling.HAMMING, Image.Resampling.LANCZOS)
_MAX_GREY = 255.0


@dataclass(frozen=True, slots=True)
class Film:
    """One picture to write: its source, its target and what its draws follow from."""

    source: Path
    target: Path
    seed: str
    is_changed: bool


def squared(film: Image.Image) -> Image.Image:
    """Return a grey film in the middle of a black square."""
    side = max(film.size)
    square = Image.new("L", (side, side))
    square.paste(film, ((side - film.width) // 2, (side - film.height) // 2))
    return square


def changed(grey_YX: NDArray[np.float32], rng: random.Random) -> NDArray[np.float32]:
    """Return a film turned, scaled, shifted, of other contrast and with noise, as no label minds."""
    angle = np.deg2rad(rng.uniform(-7, 7))
    scale = rng.uniform(0.92, 1.08)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) / scale
    middle = (np.array(grey_YX.shape) - 1) / 2
    shift = np.array([rng.uniform(-0.04, 0.04), rng.uniform(-0.04, 0.04)]) * grey_YX.shape[0]
    moved_YX = ndimage.affine_transform(grey_YX, turn, middle + shift - turn @ middle, order=1, mode="constant")
    share_YX: NDArray[np.float32] = np.clip(moved_YX / _MAX_GREY, 0, 1) ** rng.uniform(0.85, 1.2)
    share_YX = (share_YX - 0.5) * rng.uniform(0.85, 1.15) + 0.5
    noise_YX = np.random.default_rng(rng.getrandbits(64)).normal(0, rng.uniform(0, 3), grey_YX.shape)
    return (share_YX * _MAX_GREY + noise_YX).astype(np.float32)


def write(film: Film) -> None:
    """Write one film; one that is there is left alone."""
    if film.target.is_file():
        return
    rng = random.Random(film.seed)
    with Image.open(film.source) as opened:
        square = squared(opened.convert("L"))
    small = square.resize((SIDE_PX, SIDE_PX), rng.choice(_FILTERS))
    grey_YX = np.asarray(small, dtype=np.float32)
    if film.is_changed:
        grey_YX = changed(grey_YX, rng)
    grey_YX = ndimage.gaussian_filter(grey_YX, rng.uniform(0.2, 0.8))
    picture = Image.fromarray(np.clip(np.rint(grey_YX), 0, _MAX_GREY).astype(np.uint8))
    partial = film.target.with_name(f"{film.target.name}.partial")
    picture.save(partial, format="JPEG", quality=rng.randint(70, 96))
    partial.replace(film.target)


def films(source: Path, output: Path, copies: dict[str, int], seed: int) -> Iterator[Film]:
    """Yield every film of both folders, and the copies of training films."""
    for folder in FOLDERS:
        with (source / folder / "index.jsonl").open(encoding="utf-8") as lines:
            for entry in map(json.loads, lines):
                number = copies.get(entry["dataset"], 0) if entry["split"] == "train" else 0
                stem = Path(entry["file"]).stem
                for copy in range(number + 1):
                    name = f"{stem}.jpg" if copy == 0 else f"{stem}.{copy}.jpg"
                    yield Film(source / folder / entry["file"], output / name, f"{seed}:{name}", copy > 0)


def main(arguments: list[str] | None = None) -> int:
    """Write the films and say how many; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="folder of radiographs/ and adult_normals/")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of the films")
    parser.add_argument("--copies", action="append", default=[], metavar="DATASET=N", help="changed copies of a source")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    copies = {name: int(number) for name, number in (item.split("=") for item in options.copies)}
    options.output.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        number = sum(1 for _ in pool.map(write, films(options.source, options.output, copies, options.seed)))
    print(f"{options.output}: {number} films of {SIDE_PX} px", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
