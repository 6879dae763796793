"""Small pictures and tables, of which tests build the layouts that data sets are published in."""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def draw_image(path: Path, seed: int = 0, *, bits: int = 8, side: int = 48) -> Path:
    """Write a small picture of its own for each seed: smooth blobs, as PNG or JPEG, 8 or 16 bits."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:side, 0:side] / side
    values = sum(
        np.exp(-((x - rng.random()) ** 2 + (y - rng.random()) ** 2) / (0.02 + 0.1 * rng.random())) for _ in range(6)
    )
    values = values / values.max()
    path.parent.mkdir(parents=True, exist_ok=True)
    if bits == 16:
        Image.fromarray((values * 65535).astype(np.uint16)).save(path)
    else:
        Image.fromarray((values * 255).astype(np.uint8)).save(path)
    return path


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any] | Sequence[Any]]) -> Path:
    """Write a table; a name that ends in .gz is compressed."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(columns)
    for row in rows:
        table.writerow([row.get(name, "") for name in columns] if isinstance(row, Mapping) else row)
    path.parent.mkdir(parents=True, exist_ok=True)
    data = text.getvalue().encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path
