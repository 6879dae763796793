"""Draw one film with more and more of it hidden, filled by several models, each with the report it reads off its fill.

    python tools/results_picture.py film.jpg -o docs/images/arms.png \
        --weights "S1, then more S1=runs/arms/seed0/s1-more" "chexmix-mini=chexmix-mini"

Leak-free, random cells, ring 0, one pass, expected codes, blended (docs/inpainting.md); the report is read greedily
from the codes after filling. What is shown is one film, chosen before it was looked at, and no measurement.
"""

from __future__ import annotations

import argparse
import io
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import torch

from chexmix_cli import __version__
from chexmix_cli.core.data.images.load import load_image
from chexmix_cli.core.data.presets import resolve_preset
from chexmix_cli.core.data.sources import Source
from chexmix_cli.core.infer.image_tokenizer import ImageTokenizer
from chexmix_cli.core.infer.inpainting.code_filler import CodeFiller
from chexmix_cli.core.infer.inpainting.masked_film import PatternMask, mask_film
from chexmix_cli.core.infer.inpainting.restorer import EncodedFilm, Restorer
from chexmix_cli.core.infer.reports.writer import ReportWriter
from chexmix_cli.core.present.picture import MARK, SOURCE_TYPE
from chexmix_cli.core.settings.inference import DecodeSettings, InputSettings
from chexmix_cli.core.settings.inpainting import FillSettings, PictureSettings, RegionSettings
from chexmix_cli.core.weights import open_weights

RATIOS = (0.0, 0.4, 0.8)
REGION = RegionSettings(ring=0)
_CELL_IN, _TEXT_IN, _GAP_IN, _HEAD_IN = 2.3, 1.35, 0.12, 0.62
_LINE = 40


def filled_by(name: str, path: Path) -> tuple[list[EncodedFilm | None], list[np.ndarray], list[str]]:
    """Return for each ratio the film with its hidden part (None where nothing is), the picture, and the report."""
    weights = open_weights(name)
    settings = weights.settings
    preset = resolve_preset("model", settings.image, settings.vqgan.image_channels)
    film = load_image(Source(path), preset.intensity, InputSettings()).image
    images = ImageTokenizer(weights.load_vqgan("cpu", torch.float32), settings, batch_size=1)
    decoder = weights.load_decoder("cpu", torch.float32)
    restorer = Restorer(images, CodeFiller(decoder, settings.vocabulary, images.vqgan.quantize.embedding.weight))
    writer = ReportWriter(decoder, settings.vocabulary, weights.load_text_tokenizer())
    films: list[EncodedFilm | None] = []
    pictures, codes = [], []
    for ratio in RATIOS:
        # Without a mask the film itself is read; a small one stands in to encode it.
        mask = PatternMask("random", ratio or 0.1)
        grid = settings.grid_size
        masked = mask_film(film, mask, preset, REGION, grid_size=grid, seed=0, key=path.stem)
        (encoded,) = restorer.encode([masked], REGION)
        (restored,) = restorer.fill([encoded], FillSettings(), seed=0)
        films.append(encoded if ratio else None)
        (joined,) = encoded.join([restored.filled_YX], "blend", detail=PictureSettings().detail)
        pictures.append(joined if ratio else encoded.original_YX)
        codes.append((restored.codes_P if ratio else encoded.codes_P).tolist())
    reports = [report.text or "" for report in writer.write(codes, DecodeSettings())]
    return films, pictures, reports


def draw(models: dict[str, str], path: Path) -> bytes:
    """Return the picture as PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    made = {title: filled_by(name, path) for title, name in models.items()}
    columns = 1 + len(made)
    width_in = columns * _CELL_IN + (columns + 1) * _GAP_IN
    row_in = _CELL_IN + _TEXT_IN
    height_in = _HEAD_IN + len(RATIOS) * row_in
    figure = Figure(figsize=(width_in, height_in), dpi=110, facecolor="white")
    FigureCanvasAgg(figure)
    band: Any = figure.add_axes((0.0, 1 - 0.26 / height_in, 1.0, 0.26 / height_in))
    band.set_facecolor("#9c1c1c")
    band.set(xticks=[], yticks=[])
    band.text(0.5, 0.46, MARK, size=9.5, weight="bold", color="white", ha="center", va="center")
    films = next(iter(made.values()))[0]
    original_YX = next(iter(made.values()))[1][0]
    for row, ratio in enumerate(RATIOS):
        bottom_in = height_in - _HEAD_IN - row * row_in - _CELL_IN
        film = films[row]
        seen = np.repeat(original_YX[..., None], 3, axis=2)
        if film is not None:
            seen[film.film.is_hidden_YX] = (40, 70, 120)
        cells = [("what is seen", seen, f"{100 * ratio:.0f} % hidden")]
        cells += [(title, pictures[row], reports[row]) for title, (_, pictures, reports) in made.items()]
        for column, (title, pixels, text) in enumerate(cells):
            left_in = _GAP_IN + column * (_CELL_IN + _GAP_IN)
            box = (left_in / width_in, bottom_in / height_in, _CELL_IN / width_in, _CELL_IN / height_in)
            axes: Any = figure.add_axes(box)
            axes.imshow(pixels, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
            axes.set_axis_off()
            if row == 0:
                axes.set_title(title, size=8.5, pad=3)
            lines = "\n".join(textwrap.wrap(text, _LINE)[:9])
            y = (bottom_in - 0.06) / height_in
            figure.text(left_in / width_in, y, lines, size=6.5, va="top", parse_math=False)
    written = io.BytesIO()
    comment = f"{MARK}. Pictures right of the first column are synthetic in part."
    metadata = {"Software": f"chexmix {__version__}", "Comment": comment, "DigitalSourceType": SOURCE_TYPE}
    figure.savefig(written, format="png", metadata=metadata)
    return written.getvalue()


def main(arguments: list[str] | None = None) -> int:
    """Draw and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("film", type=Path)
    parser.add_argument("--weights", nargs="+", required=True, metavar="TITLE=WEIGHTS")
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args(arguments)
    models = dict(one.split("=", 1) for one in options.weights)
    options.output.write_bytes(draw(models, options.film))
    return 0


if __name__ == "__main__":
    sys.exit(main())
