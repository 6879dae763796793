"""One picture a report: the radiograph, what its image tokens keep of it, and the report underneath.

Every picture says in its pixels and in its PNG metadata that model output is in it. matplotlib is imported when a
picture is drawn, and its global state (backend, pyplot) is left alone.
"""

from __future__ import annotations

import warnings
from bisect import bisect
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from chexmix_cli import __version__
from chexmix_cli.core.data.lines import split_lines
from chexmix_cli.core.errors import MachineError, ShapeError
from chexmix_cli.core.files import atomic_write
from chexmix_cli.core.text.disclaimer import GENERATED

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MARK = GENERATED
#: IPTC's term for media that models made in part.
SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"

_DPI = 120
_WIDTH_IN = 10.0
_MARGIN_IN = 0.35
_PANEL_IN = 4.5
_HEAD_IN = 1.0
_LINE_IN = 0.235
_TEXT_POINTS = 11.5
WARNING_COLOUR = "#9c1c1c"


def report_picture(
    original: Any,
    roundtrip: Any,
    report: str,
    *,
    path: Path,
    title: str = "Chest radiograph",
    note: str | None = None,
    conflicts: Sequence[str] = (),
) -> None:
    """Write a PNG of a radiograph, its round trip through the image tokens, and the report.

    Args:
        original: the radiograph as the model was given it, uint8 grey (Y, X) or RGB (Y, X, 3), or a PIL image.
        roundtrip: the same picture decoded from its codes, in the same form; its size may differ.
        report: shown whole, wrapped, its line breaks kept.
        path: where to write; the folder is made, an old file is replaced only by a finished new one.
        title: heading of the picture. Give nothing that names a patient.
        note: small print at the bottom, such as the model's name.
        conflicts: drawn in the colour of the mark under the report, a line each.

    Raises:
        ShapeError: if a picture is not 8-bit grey or RGB.
        MachineError: if the file cannot be written.
    """
    figure = _report_figure(original, roundtrip, report, title=title, note=note, conflicts=conflicts)
    metadata = {
        "Software": f"chexmix {__version__}",
        "Title": title,
        "Comment": f"{MARK}. The right-hand image and the text are synthetic.",
        "DigitalSourceType": SOURCE_TYPE,
    }
    save_figure(figure, path, metadata)


def report_pixels(
    original: Any, roundtrip: Any, report: str, *, note: str | None = None, conflicts: Sequence[str] = ()
) -> NDArray[np.uint8]:
    """Return the picture of :func:`report_picture` as pixels, RGB (Y, X, 3); the arguments are its."""
    figure = _report_figure(original, roundtrip, report, note=note, conflicts=conflicts)
    canvas: Any = figure.canvas
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _report_figure(
    original: Any,
    roundtrip: Any,
    report: str,
    *,
    title: str = "Chest radiograph",
    note: str | None = None,
    conflicts: Sequence[str] = (),
) -> Figure:
    pictures = (_pixels(original, "original"), _pixels(roundtrip, "round trip"))
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH_IN, 1.0), dpi=_DPI, facecolor="white")
    canvas: Any = FigureCanvasAgg(figure)
    width_px, renderer = (_WIDTH_IN - 2 * _MARGIN_IN) * _DPI, canvas.get_renderer()
    lines = wrap(report, renderer, width_px, _TEXT_POINTS)
    warned = wrap("\n".join(conflicts), renderer, width_px, _TEXT_POINTS) if conflicts else []
    height_in = _HEAD_IN + _PANEL_IN + 0.45 + _LINE_IN * (len(lines) + len(warned) + 1) + _MARGIN_IN
    figure.set_size_inches(_WIDTH_IN, height_in)
    _draw_head(figure, title, height_in)
    _draw_panels(figure, pictures, height_in)
    _draw_report(figure, lines, warned, note, height_in)
    return figure


def save_figure(figure: Figure, path: Path, metadata: dict[str, str]) -> None:
    """Write a figure as a PNG in one piece; the folder is made.

    Raises:
        MachineError: if it cannot be written.
    """
    try:
        with atomic_write(path) as file, warnings.catch_warnings():
            # A report may hold characters the font lacks; it draws a box for them, and that says enough.
            warnings.filterwarnings("ignore", message="Glyph .* missing from font")
            figure.savefig(file, format="png", metadata=metadata)
    except OSError as error:
        raise MachineError(f"the picture cannot be written ({error.strerror})", where=str(path)) from None


def _pixels(picture: Any, name: str) -> NDArray[np.uint8]:
    pixels = np.asarray(picture)
    is_grey, is_rgb = pixels.ndim == 2, pixels.ndim == 3 and pixels.shape[2] == 3
    if pixels.dtype != np.uint8 or not (is_grey or is_rgb) or 0 in pixels.shape:
        raise ShapeError(
            f"the {name} has shape {pixels.shape} and type {pixels.dtype}", expected="uint8 of (Y, X) or (Y, X, 3)"
        )
    return pixels


def wrap(text: str, renderer: Any, width_px: float, points: float) -> list[str]:
    """Return ``text`` in lines that fit a width as drawn, words broken only where one alone is too long.

    Args:
        text: its line breaks are kept.
        renderer: matplotlib's, which knows how wide letters are.
        width_px: in its pixels.
        points: size of the letters.
    """
    from matplotlib.font_manager import FontProperties

    font = FontProperties(size=points)

    def fits(line: str) -> bool:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph .* missing from font")
            found_px: float = renderer.get_text_width_height_descent(line, font, ismath=False)[0]
        return found_px <= width_px

    lines = []
    for paragraph in split_lines(text.rstrip()):
        line = ""
        for word in paragraph.split():
            if fits(f"{line} {word}".lstrip()):
                line = f"{line} {word}".lstrip()
                continue
            if line:
                lines.append(line)
            line = word
            while not fits(line):
                tail = line
                too_long = bisect(range(len(line)), False, key=lambda count: not fits(tail[:count]))
                count = max(1, too_long - 1)
                lines.append(line[:count])
                line = line[count:]
        lines.append(line)
    return lines


def _draw_head(figure: Figure, title: str, height_in: float) -> None:
    """Draw the title and, across the whole width, the mark."""
    x = _MARGIN_IN / _WIDTH_IN
    figure.text(x, 1 - 0.3 / height_in, title, size=14, weight="bold", va="center", parse_math=False)
    band = figure.add_axes((0.0, 1 - 0.82 / height_in, 1.0, 0.3 / height_in))
    band.set_facecolor(WARNING_COLOUR)
    band.set(xticks=[], yticks=[])
    for spine in band.spines.values():
        spine.set_visible(False)
    band.text(0.5, 0.46, MARK, size=11, weight="bold", color="white", ha="center", va="center")


def _draw_panels(figure: Figure, pictures: tuple[NDArray[np.uint8], ...], height_in: float) -> None:
    """Draw the radiograph on the left and its round trip, marked synthetic, on the right."""
    width_in = (_WIDTH_IN - 3 * _MARGIN_IN) / 2
    bottom_in = height_in - _HEAD_IN - 0.2 - _PANEL_IN
    for number, (pixels, caption) in enumerate(
        zip(pictures, ("Radiograph, as the model is given it", "Its round trip through the image tokens"), strict=True)
    ):
        left_in = _MARGIN_IN + number * (width_in + _MARGIN_IN)
        box = (left_in / _WIDTH_IN, bottom_in / height_in, width_in / _WIDTH_IN, _PANEL_IN / height_in)
        axes = figure.add_axes(box)
        axes.imshow(pixels, cmap="gray", vmin=0, vmax=255)
        axes.set_title(caption, size=10.5, pad=4)
        axes.set_axis_off()
        if number:
            label = {"facecolor": WARNING_COLOUR, "edgecolor": "none", "pad": 2.5}
            axes.text(
                0.98, 0.02, "SYNTHETIC", transform=axes.transAxes, size=9, weight="bold", color="white", ha="right",
                va="bottom", bbox=label,
            )  # fmt: skip


def _draw_report(figure: Figure, lines: list[str], warned: list[str], note: str | None, height_in: float) -> None:
    x, top_in = _MARGIN_IN / _WIDTH_IN, height_in - _HEAD_IN - _PANEL_IN - 0.45
    for number, line in enumerate([*lines, *warned]):
        y, colour = (top_in - number * _LINE_IN) / height_in, "black" if number < len(lines) else WARNING_COLOUR
        figure.text(x, y, line, size=_TEXT_POINTS, va="top", color=colour, parse_math=False)
    if note is not None:
        figure.text(x, 0.16 / height_in, note, size=8.5, color="#555555", va="center", parse_math=False)
