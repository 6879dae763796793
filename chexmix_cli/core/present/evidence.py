"""Heat maps of a report's evidence: the film once a sentence, warm where hiding it makes the sentence less probable."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from chexmix_cli import __version__
from chexmix_cli.core.present.picture import MARK, SOURCE_TYPE, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLUMNS = 3
_PANEL_IN, _TEXT_IN, _HEAD_IN = 3.4, 1.0, 0.75
_LETTERS_A_LINE, _MOST_LINES = 50, 3
_OPACITY = 0.55


class ShownSentence(Protocol):
    """A sentence (``core/infer/reports/evidence.py: SentenceEvidence``)."""

    @property
    def text(self) -> str:
        """Return the sentence."""

    @property
    def badge(self) -> str:
        """Return what it rests on, in words."""

    @property
    def evident_blocks(self) -> NDArray[np.float64]:
        """Return nats a token lost without each block, 0 where that may be chance, (Y, X)."""

    @property
    def is_text_prior_only(self) -> bool:
        """Return whether the image does not matter."""


def evidence_picture(film: Any, sentences: Sequence[ShownSentence], *, path: Path, note: str) -> None:
    """Write a PNG with a heat map for each sentence, all on one scale.

    Args:
        film: the radiograph, uint8 grey (Y, X) or RGB.
        sentences: of the report, in order.
        path: where to write.
        note: small print, such as the model's name.

    Raises:
        MachineError: if the file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(_COLUMNS, max(1, len(sentences)))
    rows = max(1, -(-len(sentences) // columns))
    height_in = _HEAD_IN + rows * (_PANEL_IN + _TEXT_IN)
    figure = Figure(figsize=(columns * _PANEL_IN + 0.4, height_in), dpi=110, facecolor="white")
    FigureCanvasAgg(figure)
    figure.text(0.02, 1 - 0.3 / height_in, "Evidence by hiding", fontsize=13, weight="bold", va="center")
    scale = max([float(one.evident_blocks.max()) for one in sentences] + [1e-6])
    top = f"warm: hiding this block makes the sentence less probable (up to {scale:.2g} nats a token)"
    figure.text(0.02, 1 - 0.58 / height_in, top, fontsize=8, color="#444", va="center")
    for place, sentence in enumerate(sentences):
        row, column = divmod(place, columns)
        left = (0.2 + column * _PANEL_IN) / (columns * _PANEL_IN + 0.4)
        bottom = 1 - (_HEAD_IN + (row + 1) * (_PANEL_IN + _TEXT_IN) - _TEXT_IN) / height_in
        width = (_PANEL_IN - 0.15) / (columns * _PANEL_IN + 0.4)
        axes = figure.add_axes((left, bottom, width, (_PANEL_IN - 0.15) / height_in))
        _draw(axes, film, sentence, scale)
    figure.text(0.02, 0.12 / height_in, f"{MARK}. {note}", fontsize=7.5, color="#9c1c1c", va="center")
    metadata = {
        "Software": f"chexmix {__version__}",
        "Title": "Evidence of a generated report",
        "Comment": f"{MARK}. Sentences and heat maps are model output.",
        "DigitalSourceType": SOURCE_TYPE,
    }
    save_figure(figure, path, metadata)


def _draw(axes: Axes, film: Any, sentence: ShownSentence, scale: float) -> None:
    pixels = np.asarray(film)
    height, width = pixels.shape[:2]
    axes.imshow(pixels, cmap="gray", vmin=0, vmax=255, extent=(0, width, height, 0))
    strength_YX = np.clip(sentence.evident_blocks / scale, 0, 1)
    axes.imshow(
        strength_YX,
        cmap="inferno",
        vmin=0,
        vmax=1,
        alpha=_OPACITY * strength_YX,
        extent=(0, width, height, 0),
        interpolation="nearest",
    )
    axes.set_xticks([])
    axes.set_yticks([])
    lines = textwrap.wrap(" ".join(sentence.text.split()), _LETTERS_A_LINE)
    shown = lines if len(lines) <= _MOST_LINES else [*lines[: _MOST_LINES - 1], lines[_MOST_LINES - 1][:-2] + " \u2026"]
    place = [] if sentence.evident_blocks.any() else ["no part of it alone matters more than chance"]
    # A dollar sign would start a formula.
    text = "\n".join([*shown, sentence.badge, *place]).replace("$", r"\$")
    colour = "#9c1c1c" if sentence.is_text_prior_only else "#1b1b1b"
    axes.text(0, -0.03, text, transform=axes.transAxes, va="top", fontsize=7.5, color=colour)
