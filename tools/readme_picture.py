"""Draw the README's picture: three films, what the model wrote of each and rests it on, and a film filled in.

    python tools/readme_picture.py ../shared/data/radiographs

Every film is a validation film under a free licence (NOTICE), named in :data:`FILMS` by its file; everything else is
what the embedded model gives now. Writes docs/images/overview.png.
"""

from __future__ import annotations

import argparse
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

import chexmix_cli as chexmix
from chexmix_cli.core.present.picture import MARK, save_figure

if TYPE_CHECKING:
    from chexmix_cli.core.infer.reports.evidence import SentenceEvidence
    from chexmix_cli.library.inpainting import FilledFilm
    from chexmix_cli.library.reports import StudyReport

TARGET = Path(__file__).resolve().parents[1] / "docs" / "images" / "overview.png"
FILMS = {
    "a child (labelled bacterial pneumonia)": "images/kermany_00801718844d.jpg",
    "a child (labelled normal)": "images/kermany_01580dc06f44.jpg",
    "an adult (labelled pneumonia)": "images/nih_00001247_011.jpg",
}
#: The film that is filled in, and the share of it that is hidden.
FILLED, BLOCK = "a child (labelled normal)", 0.15

_PANEL_IN, _GAP_IN, _HEAD_IN, _TEXT_IN = 2.9, 0.15, 0.42, 2.15
_LETTERS = 40
_RED, _INK = "#9c1c1c", "#1b1b1b"


def main() -> None:
    """Draw it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with index.jsonl and images/")
    data: Path = parser.parse_args().data
    model = chexmix.load()
    films = {title: model.film(data / file) for title, file in FILMS.items()}
    reports = {title: model.report(film, explain=True) for title, film in films.items()}
    draw(reports, model.inpaint(films[FILLED], block=BLOCK), model.weights.name)


def draw(reports: dict[str, StudyReport], filled: FilledFilm, name: str) -> None:
    """Write the picture of some reports and a fill."""
    columns = len(reports) + 1
    width_in = columns * (_PANEL_IN + _GAP_IN) + _GAP_IN
    height_in = _HEAD_IN + 2 * (_PANEL_IN + 0.3) + _TEXT_IN
    figure = Figure(figsize=(width_in, height_in), dpi=100, facecolor="white")
    FigureCanvasAgg(figure)
    _band(figure, height_in)
    for column, (title, report) in enumerate(reports.items()):
        assert report.film.pixels is not None
        film = np.asarray(report.film.pixels[0])
        best = max(report.sentences or [], key=lambda one: one.drop)
        _panel(figure, column, 0, title, film)
        _bars(figure, column, report)
        _text(figure, column, _told(report, best))
    _panel(figure, columns - 1, 0, f"{BLOCK:.0%} of a film hidden", _hidden(filled))
    _panel(figure, columns - 1, 1, "filled in by the model", filled.picture_YX)
    _text(figure, columns - 1, [(line, _INK) for line in textwrap.wrap(_fill_line(filled), _LETTERS)])
    save_figure(figure, TARGET, {"Comment": f"{MARK}. Reports, maps and the fill are output of {name}."})


def _told(report: StudyReport, best: SentenceEvidence) -> list[tuple[str, str]]:
    """Return what the sentence above rests on, the report's lines, each conflict in red under them."""
    lines = [(line, "#555555") for line in textwrap.wrap(f"\u201c{_short(best.text)}\u201d {best.badge}", _LETTERS)]
    lines += [(line, _INK) for line in textwrap.wrap(" ".join((report.text or "").split()), _LETTERS)]
    for conflict in report.conflicts:
        lines += [(line, _RED) for line in textwrap.wrap(conflict, _LETTERS)]
    return lines


def _fill_line(filled: FilledFilm) -> str:
    psnr = filled.scores["psnr"]["masked"]
    ceiling = filled.scores["ceiling"]["psnr"]["masked"]
    return f"Hidden pixels against the original: {psnr['original']:.1f} dB; image tokens allow {ceiling:.1f}"


def _hidden(filled: FilledFilm) -> Any:
    tinted = np.repeat(filled.encoded.masked_YX[..., None], 3, axis=2)
    tinted[filled.encoded.film.is_hidden_YX] = (40, 70, 120)
    return tinted


def _short(text: str) -> str:
    return text if len(text) <= 34 else f"{text[:33].rsplit(' ', 1)[0]} \u2026"


def _band(figure: Any, height_in: float) -> None:
    band = figure.add_axes((0.0, 1 - 0.3 / height_in, 1.0, 0.3 / height_in))
    band.set_facecolor(_RED)
    band.set(xticks=[], yticks=[])
    band.spines[:].set_visible(False)
    band.text(0.5, 0.46, MARK, size=11, weight="bold", color="white", ha="center", va="center")


def _panel(figure: Any, column: int, row: int, title: str, pixels: Any) -> Any:
    width_in, height_in = figure.get_size_inches()
    left_in = _GAP_IN + column * (_PANEL_IN + _GAP_IN)
    bottom_in = height_in - _HEAD_IN - (row + 1) * (_PANEL_IN + 0.3)
    axes = figure.add_axes((left_in / width_in, bottom_in / height_in, _PANEL_IN / width_in, _PANEL_IN / height_in))
    limits = {"vmin": -1, "vmax": 1} if pixels.dtype.kind == "f" else {"vmin": 0, "vmax": 255}
    axes.imshow(pixels, cmap="gray", **limits)
    axes.set_title(title, size=9.5, pad=4)
    axes.set_axis_off()
    return axes


def _bars(figure: Any, column: int, report: StudyReport) -> None:
    """Draw the classifier's probabilities, a tick where each counts as present, a conflict with the report in red."""
    opinions = report.second.opinions
    axes = _panel(figure, column, 1, "what the classifier says", np.zeros((1, 1), np.uint8))
    axes.clear()
    axes.set_aspect("auto")
    for place, one in enumerate(opinions.values()):
        colour = _RED if one.is_conflict else "#54707c" if one.is_present else "#b9c6cc"
        axes.barh(place, one.probability, height=0.6, color=colour)
        axes.plot([one.threshold] * 2, [place - 0.42, place + 0.42], color=_INK, linewidth=1)
    axes.set_yticks(range(len(opinions)), opinions, fontsize=8)
    axes.tick_params(axis="y", direction="in", pad=-6, length=0)
    for label in axes.get_yticklabels():
        label.set_horizontalalignment("left")
    axes.set(xlim=(0, 1), ylim=(len(opinions) - 0.4, -0.6), xticks=[])
    axes.spines[:].set_visible(False)
    axes.set_title("the classifier; | present from here on", size=9.5, pad=4)


def _text(figure: Any, column: int, lines: list[tuple[str, str]]) -> None:
    width_in, height_in = figure.get_size_inches()
    left, top_in = (_GAP_IN + column * (_PANEL_IN + _GAP_IN)) / width_in, _TEXT_IN - 0.12
    for number, (line, colour) in enumerate(lines):
        figure.text(left, (top_in - 0.185 * number) / height_in, line, size=9, va="top", color=colour, parse_math=False)


if __name__ == "__main__":
    main()
