"""Measure how well one can tell two sources of films apart, their labels being the same.

    python tools/measure_sources.py manifest.jsonl --sources nih14 rsna_normal --label "No Finding"

A model that learns the source in place of the disease is as good as the source is easy to tell. Films of both sources
with the label alone, as many of each, unchanged copies only; AUROC of a logistic regression, five folds over patients,
with its 95 % interval over patients, from: 50 principal components of 56 px pictures; the logarithm of the power
spectrum in 40 rings (sharpness, compression, resampling); both together. 0.5 means that nothing tells them.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from chexmix_cli.core.data.manifest import ManifestRow, read_manifest
from chexmix_cli.core.evals.metrics.bootstrap import bootstrap, group_numbers

_SIDE_PX, _SMALL_PX, _RINGS, _COMPONENTS = 224, 56, 40, 50


def grey(path: Path) -> NDArray[np.float32]:
    """Return a film padded to a square of 224 px, as the model sees it, in [0, 1]."""
    with Image.open(path) as opened:
        film = opened.convert("L")
    side = max(film.size)
    square = Image.new("L", (side, side))
    square.paste(film, ((side - film.width) // 2, (side - film.height) // 2))
    small = square.resize((_SIDE_PX, _SIDE_PX), Image.Resampling.BILINEAR)
    return np.asarray(small, dtype=np.float32) / np.float32(255)


def spectrum(grey_YX: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the mean logarithmic power in rings of frequency, (40,)."""
    windowed_YX = (grey_YX - grey_YX.mean()) * np.outer(*[np.hanning(len(grey_YX))] * 2)
    power_YX = np.log(np.abs(np.fft.fftshift(np.fft.fft2(windowed_YX))) ** 2 + 1e-6)
    centred = np.arange(len(grey_YX)) - len(grey_YX) // 2
    ring_YX = (np.hypot(*np.meshgrid(centred, centred)) * _RINGS / (len(grey_YX) / 2)).astype(int)
    kept = ring_YX < _RINGS
    sums = np.bincount(ring_YX[kept], power_YX[kept], minlength=_RINGS)
    return (sums / np.bincount(ring_YX[kept], minlength=_RINGS)).astype(np.float32)


def chosen(rows: list[ManifestRow], sources: list[str], label: str, most: int) -> list[tuple[ManifestRow, int]]:
    """Return films of both sources with the label, as many of each, drawn by seed 0."""
    found: list[list[ManifestRow]] = []
    for source in sources:
        known = [row for row in rows if (row.patient or "").startswith(f"{source}:") and "." not in row.id]
        known = [row for row in known if row.labels.get(label) == 1]
        random.Random(0).shuffle(known)
        found.append(known)
    number = min(most, *map(len, found))
    return [(row, which) for which, known in enumerate(found) for row in known[:number]]


def auroc(feature_NX: NDArray[np.float32], is_second_N: NDArray[np.int64], groups: NDArray[np.int64]) -> str:
    """Return the cross-validated AUROC of a logistic regression with its interval, as words."""
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=2000))
    score_N = cross_val_predict(
        model, feature_NX, is_second_N, groups=groups, cv=GroupKFold(5), method="decision_function"
    )
    drawn = bootstrap(
        groups, lambda rows: np.array([roc_auc_score(is_second_N[rows], score_N[rows])]), resamples=500, seed=0
    )
    low, high = np.nanpercentile(drawn, (2.5, 97.5))
    return f"{roc_auc_score(is_second_N, score_N):.3f} ({low:.3f} to {high:.3f})"


def main(arguments: list[str] | None = None) -> int:
    """Measure and print; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--sources", nargs=2, default=["nih14", "rsna_normal"])
    parser.add_argument("--label", default="No Finding")
    parser.add_argument("--most", type=int, default=400, help="films of each source")
    options = parser.parse_args(arguments)
    films = chosen(list(read_manifest(options.manifest)), options.sources, options.label, options.most)
    groups = group_numbers([row.patient for row, _ in films])
    is_second_N = np.array([which for _, which in films])
    pictures = [grey(Path(row.file)) for row, _ in films]
    small_NX = np.stack(
        [
            np.asarray(Image.fromarray(picture).resize((_SMALL_PX, _SMALL_PX), Image.Resampling.BOX)).ravel()
            for picture in pictures
        ]
    )
    pixels_NX = PCA(_COMPONENTS, random_state=0).fit_transform(small_NX)
    spectra_NX = np.stack([spectrum(picture) for picture in pictures])
    features = {"pixels": pixels_NX, "spectrum": spectra_NX, "both": np.concatenate((pixels_NX, spectra_NX), axis=1)}
    result = {name: auroc(feature_NX, is_second_N, groups) for name, feature_NX in features.items()}
    print(json.dumps({"films of each": int((is_second_N == 0).sum()), **result}, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
