"""Original, masked, result and error side by side, as one PNG. matplotlib is imported when one is drawn. Y X pixels."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chexmix_cli import __version__
from chexmix_cli.core.present.picture import MARK, SOURCE_TYPE

_DPI = 110
_PANEL_IN, _GAP_IN, _TOP_IN, _BOTTOM_IN = 2.6, 0.12, 0.62, 0.3
_COLOUR = "#9c1c1c"
#: Grey levels of error that are drawn as the strongest.
_LARGEST_ERROR = 64


def panels_png(
    original_YX: NDArray[np.uint8],
    masked_YX: NDArray[np.uint8],
    is_hidden_YX: NDArray[np.bool_],
    result_YX: NDArray[np.uint8],
    caption: str,
) -> bytes:
    """Return the four pictures side by side, marked.

    Args:
        original_YX: the film as the model is given it.
        masked_YX: the same as the image tokenizer is given it; hidden pixels are shown in colour.
        is_hidden_YX: hidden pixels.
        result_YX: filled.
        caption: one line below, such as the numbers. Give nothing that names a patient.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    width_in, height_in = 4 * _PANEL_IN + 5 * _GAP_IN, _TOP_IN + _PANEL_IN + _BOTTOM_IN
    figure = Figure(figsize=(width_in, height_in), dpi=_DPI, facecolor="white")
    FigureCanvasAgg(figure)
    band: Any = figure.add_axes((0.0, 1 - 0.26 / height_in, 1.0, 0.26 / height_in))
    band.set_facecolor(_COLOUR)
    band.set(xticks=[], yticks=[])
    band.spines[:].set_visible(False)
    band.text(0.5, 0.46, MARK, size=9.5, weight="bold", color="white", ha="center", va="center")
    tinted = np.repeat(masked_YX[..., None], 3, axis=2)
    tinted[is_hidden_YX] = (40, 70, 120)
    error_YX = np.abs(result_YX.astype(np.int64) - original_YX)
    shown: tuple[tuple[str, Any, dict[str, Any]], ...] = (
        ("original", original_YX, {"cmap": "gray", "vmax": 255}),
        ("masked", tinted, {}),
        ("result (synthetic where hidden)", result_YX, {"cmap": "gray", "vmax": 255}),
        (f"error, black 0 to white {_LARGEST_ERROR} grey levels", error_YX, {"cmap": "hot", "vmax": _LARGEST_ERROR}),
    )
    for number, (title, pixels, how) in enumerate(shown):
        left_in = _GAP_IN + number * (_PANEL_IN + _GAP_IN)
        box = (left_in / width_in, _BOTTOM_IN / height_in, _PANEL_IN / width_in, _PANEL_IN / height_in)
        axes: Any = figure.add_axes(box)
        axes.imshow(pixels, vmin=0, interpolation="nearest", **how)
        axes.set_title(title, size=8.5, pad=3)
        axes.set_axis_off()
    figure.text(_GAP_IN / width_in, 0.13 / height_in, caption, size=8, va="center", parse_math=False)
    written = io.BytesIO()
    metadata = {
        "Software": f"chexmix {__version__}",
        "Comment": f"{MARK}. The third picture is synthetic in part.",
        "DigitalSourceType": SOURCE_TYPE,
    }
    figure.savefig(written, format="png", metadata=metadata)
    return written.getvalue()
