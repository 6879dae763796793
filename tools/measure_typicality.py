"""Measure how well films that a model does not know are told from those it does: AUROC against val films, one table.

    python tools/measure_typicality.py ../shared/data [--weights DIR] [--typical FILE] [--films 100]

Known: val films of each data set, and the upright films of ``nih_rotation``. Unknown: its films that were really filed
on their side; val films turned and inverted here; DICOM files that show something else (``dicom``, ``dicom_odd`` and
the test files of pydicom, rendered whatever their header says, one of those that look alike); the one lateral film of
``reports``; the sample photographs of scikit-image and scikit-learn; smooth and rough noise.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import skimage
import sklearn
from fit_film_pose import films
from fit_typical import chosen, opened, statistics
from numpy.typing import NDArray
from PIL import Image, ImageOps
from scipy import ndimage
from sklearn.metrics import roc_auc_score

from chexmix_cli.core.data.images.image_hash import HASH_BITS, image_hash
from chexmix_cli.core.data.images.load import load_image
from chexmix_cli.core.data.sources import Source
from chexmix_cli.core.errors import DataError
from chexmix_cli.core.files import write_json
from chexmix_cli.core.infer.typicality import Typical
from chexmix_cli.core.settings.inference import InputSettings
from chexmix_cli.core.weights.files import TYPICAL_FILE
from chexmix_cli.library.model import Model, load

#: Standard deviations of the blur that noise is made smooth by, in pixels of 224.
_SMOOTH_PX = (0, 1, 2, 4, 8, 16, 32)
_NOISE_EACH = 8
_NOISE_PX = 224
#: Pictures whose hashes differ in fewer bits show the same.
_ALIKE_BITS = 20
_LATERAL = "reports/iu_pairs/images/CXR2_IM-0652-2001.png"

Change = Callable[[Image.Image], Image.Image]
CHANGES: dict[str, Change] = {
    "turned by a quarter": lambda film: film.transpose(Image.Transpose.ROTATE_90),
    "turned by three quarters": lambda film: film.transpose(Image.Transpose.ROTATE_270),
    "upside down": lambda film: film.transpose(Image.Transpose.ROTATE_180),
    "negative": ImageOps.invert,
}


def unlike_each_other(pictures: Iterator[Image.Image]) -> list[Image.Image]:
    """Return pictures without those that look like one before."""
    kept: list[Image.Image] = []
    bits: list[NDArray[np.uint8]] = []
    for picture in pictures:
        own = np.unpackbits(np.frombuffer(image_hash(picture), np.uint8))[:HASH_BITS]
        if all(int((own != other).sum()) >= _ALIKE_BITS for other in bits):
            kept.append(picture)
            bits.append(own)
    return kept


def dicom_pictures(model: Model, data: Path) -> Iterator[Image.Image]:
    """Yield what DICOM files show that are no chest radiographs, as far as they can be rendered."""
    packaged = Path(pydicom.__file__).parent / "data/test_files"
    files = [*sorted((data / "dicom/other").iterdir()), *sorted((data / "dicom_odd").glob("*.dcm"))]
    files += [*sorted(packaged.glob("*.dcm")), *sorted((packaged.parents[2] / "data_store/data").glob("*.dcm"))]
    for path in files:
        try:
            picture = load_image(Source(path), model.preset.intensity, InputSettings()).image
        except DataError:
            continue
        header = pydicom.dcmread(path, force=True, stop_before_pixels=True)
        if not (header.get("Modality") in ("CR", "DX", "RG") and header.get("BodyPartExamined") == "CHEST"):
            yield picture


def noise(seed: int) -> Iterator[Image.Image]:
    """Yield noise from rough to smooth."""
    rng = np.random.default_rng(seed)
    for smooth_px in _SMOOTH_PX:
        for _ in range(_NOISE_EACH):
            values_YX = ndimage.gaussian_filter(rng.normal(size=(_NOISE_PX, _NOISE_PX)), smooth_px, mode="wrap")
            standard_YX = (values_YX - values_YX.mean()) / values_YX.std()
            yield Image.fromarray(np.clip(128 + 50 * standard_YX, 0, 255).astype(np.uint8))


def photographs() -> Iterator[Image.Image]:
    """Yield the sample pictures of two packages, drawings and scans among them."""
    folders = (Path(skimage.__file__).parent / "data", Path(sklearn.__file__).parent / "datasets/images")
    for path in (path for folder in folders for path in sorted(folder.iterdir())):
        if path.suffix in (".png", ".jpg"):
            yield opened(path)


def main(arguments: list[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--weights", help="default: the embedded model")
    parser.add_argument("--typical", type=Path, help=f"default: {TYPICAL_FILE} of the weights")
    parser.add_argument("--films", type=int, default=100, help="most val films of a data set")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path, help="write the figures, as JSON")
    options = parser.parse_args(arguments)
    model = load(options.weights, device="cpu", dtype="float32")
    typical = Typical.load(options.typical or model.weights.path / TYPICAL_FILE)
    typical.require_model(model.weights.fingerprint, "--typical")
    rows: list[dict[str, Any]] = []

    def scored(name: str, pictures: Iterator[Image.Image], known: np.ndarray | None = None) -> np.ndarray:
        score_N = typical.scores(statistics(model, pictures))
        row = {"films": name, "number": len(score_N), "unlike": float((score_N > typical.threshold).mean())}
        if known is not None:
            row["auroc"] = roc_auc_score([0] * len(known) + [1] * len(score_N), [*known, *score_N])
        rows.append(row)
        auroc = f"{row['auroc']:.3f}" if "auroc" in row else ""
        print(f"| {name} | {row['number']} | {row['unlike']:.1%} | {auroc} |", flush=True)
        return score_N

    print("| films | number | called unlike | AUROC against val films |\n|---|---|---|---|")
    sets = chosen(options.data, "val", options.films, options.seed)
    known = np.concatenate([scored(f"val, {name}", map(opened, paths)) for name, paths in sets.items()])
    rotation = films(options.data / "nih_rotation", None)
    for name, is_turned in (("really filed upright", False), ("really filed on their side", True)):
        paths = [row["path"] for row in rotation if row["rotated_90_ccw"] == is_turned]
        scored(name, map(opened, paths), known)
    some = [path for paths in sets.values() for path in paths[: options.films // 2]]
    for name, change in CHANGES.items():
        scored(f"val, {name}", (change(opened(path)) for path in some), known)
    scored("DICOM of other things", iter(unlike_each_other(dicom_pictures(model, options.data))), known)
    scored("lateral", iter([opened(options.data / _LATERAL)]), known)
    scored("photographs and drawings", photographs(), known)
    scored("noise, rough to smooth", noise(options.seed), known)
    if options.output is not None:
        write_json(options.output, {"model": model.weights.name, "threshold": typical.threshold, "rows": rows})
    return 0


if __name__ == "__main__":
    sys.exit(main())
