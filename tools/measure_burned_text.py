"""Measure how often text burned into a film is seen, and how often a film without any is called one with text.

    python tools/measure_burned_text.py ../shared/data

Films are the val parts of ``radiographs`` and ``adult_normals``, as they are (their side markers included) and with a
line of patient text drawn by Pillow's font, at a random place, in several heights and greys, and saved as JPEG anew.
``--show`` names the films that are called as they are: look at them, some do have text.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from chexmix_cli.core.data.images.burned_text import FEWEST, longest_line

_TEXTS = (
    "DOE^JANE 1959-07-23",
    "Muster, Erika *12.08.1964",
    "PID 00471193",
    "St. Anna Hospital 14:32",
    "JOHN Q PUBLIC M 61Y",
)
_HEIGHTS = (10, 14, 20, 28)
_GREYS = {"white": 255, "light grey": 200, "black": 0}
_SEED = 0


def films(data: Path, most: int) -> dict[str, list[Path]]:
    """Return the val films of each data set, at most so many of each."""
    found: dict[str, list[Path]] = {}
    for folder in (data / "radiographs", data / "adult_normals"):
        for line in (folder / "index.jsonl").read_text().splitlines():
            row = json.loads(line)
            if row["split"] == "val":
                found.setdefault(row.get("dataset", folder.name), []).append(folder / row["file"])
    return {name: random.Random(_SEED).sample(paths, min(most, len(paths))) for name, paths in found.items()}


def with_text(grey_YX: NDArray[np.uint8], height: int, grey: int, rng: random.Random) -> NDArray[np.uint8]:
    """Return a film with a line of text somewhere, as far as it fits, through JPEG of quality 90."""
    image = Image.fromarray(grey_YX)
    place = (rng.uniform(0, 0.4) * image.width, rng.uniform(0, 0.95) * (image.height - height))
    ImageDraw.Draw(image).text(place, rng.choice(_TEXTS), fill=grey, font=ImageFont.load_default(height))
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=90)
    return np.asarray(Image.open(stream))


def main() -> None:
    """Print the tables."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("data", type=Path)
    arguments.add_argument("--most", type=int, default=10_000, help="films of each data set")
    arguments.add_argument("--show", action="store_true")
    asked = arguments.parse_args()
    rng, called = random.Random(_SEED), []
    print("| val films | number | called as they are | " + " | ".join(_GREYS) + " |")
    print("|---|---|---|" + "---|" * len(_GREYS))
    seen: dict[int, list[bool]] = {height: [] for height in _HEIGHTS}
    for name, paths in films(asked.data, asked.most).items():
        by_grey: dict[str, list[bool]] = {grey: [] for grey in _GREYS}
        num_called = 0
        for number, path in enumerate(paths):
            with Image.open(path) as opened:
                grey_YX = np.asarray(opened.convert("L"))
            if longest_line(grey_YX) >= FEWEST:
                num_called += 1
                called.append(path.name)
            height = _HEIGHTS[number % len(_HEIGHTS)]
            for grey, value in _GREYS.items():
                is_seen = longest_line(with_text(grey_YX, height, value, rng)) >= FEWEST
                by_grey[grey].append(is_seen)
                seen[height].append(is_seen)
        shares = " | ".join(f"{np.mean(found):.1%}" for found in by_grey.values())
        print(f"| {name} | {len(paths)} | {num_called} ({num_called / len(paths):.1%}) | {shares} |", flush=True)
    print("\n| height of the font, px | " + " | ".join(map(str, _HEIGHTS)) + " |\n|---|" + "---|" * len(_HEIGHTS))
    print("| seen | " + " | ".join(f"{np.mean(found):.1%}" for found in seen.values()) + " |")
    for side in (1024, 3000):
        film = np.asarray(Image.fromarray(grey_YX).resize((side, side)))
        started = time.process_time()
        for _ in range(5):
            longest_line(film)
        print(f"\n{side} x {side}: {(time.process_time() - started) / 5 * 1e3:.0f} ms of the processor")
    if asked.show:
        print("\n".join(called))


if __name__ == "__main__":
    main()
