"""Curves as PNG. matplotlib is imported when one is drawn, and its global state (backend, pyplot) is left alone."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from chexmix_cli import __version__

_DPI = 110
#: Colours that stay apart for colour-blind readers (Okabe and Ito 2008), and a marker each, so that colour is not all.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
#: The first eight lines, the next eight, ...
_DASHES = ("-", "--", ":")
#: More points than this are drawn as a line without markers.
_MOST_MARKED = 30
#: A legend of more lines than this stands below the axes, two a row: inside it would hide some of them.
_MOST_INSIDE = 3
_LEGEND_ROW_IN = 0.22
#: Width and height of one of several plots.
_PANEL_IN = (4.6, 3.6)


class PlottedLine(Protocol):
    """A line of a plot; bounds may be missing."""

    @property
    def name(self) -> str:
        """Return its name in the legend."""

    @property
    def x(self) -> Sequence[float]:
        """Return the points."""

    @property
    def y(self) -> Sequence[float]:
        """Return their values."""

    @property
    def low(self) -> Sequence[float] | None:
        """Return the lower bounds."""

    @property
    def high(self) -> Sequence[float] | None:
        """Return the upper bounds."""


class Plot(Protocol):
    """What is drawn (``core/evals/result.py: Curve``)."""

    @property
    def title(self) -> str:
        """Return the heading."""

    @property
    def x_label(self) -> str:
        """Return the name of the axis."""

    @property
    def y_label(self) -> str:
        """Return the name of the axis."""

    @property
    def series(self) -> Sequence[PlottedLine]:
        """Return the lines."""

    @property
    def is_roc(self) -> bool:
        """Return whether it is square with a diagonal."""

    @property
    def log_axes(self) -> str:
        """Return the axes with a logarithmic scale: some of x and y."""


def curve_png(plot: Plot) -> bytes:
    """Return a plot as PNG bytes; the same plot gives the same bytes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    width, height = (5.2, 5.0) if plot.is_roc else (6.6, 4.4)
    is_below = len(plot.series) > _MOST_INSIDE
    height += _LEGEND_ROW_IN * (len(plot.series) // 2 + 1) if is_below else 0
    figure = Figure(figsize=(width, height), dpi=_DPI, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    axes: Any = figure.add_subplot()
    _draw(axes, plot)
    if is_below:
        figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8.5)
    elif plot.series:
        axes.legend(frameon=False, fontsize=8.5)
    return _png(figure)


def panels_png(plots: Sequence[Plot]) -> bytes:
    """Return plots beside each other, up to three a row, over the same x, as PNG bytes; the same give the same bytes.

    A line of one name looks alike in all of them. An x of whole numbers is a count. Where a plot has many lines, one
    legend for all stands below.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    columns = 2 if len(plots) in (2, 4) else min(3, len(plots))
    rows = -(-len(plots) // columns)
    width, height = _PANEL_IN
    names = dict.fromkeys(line.name for plot in plots for line in plot.series)
    styles = {name: number for number, name in enumerate(names)}
    is_below = max(len(plot.series) for plot in plots) > _MOST_INSIDE
    below = _LEGEND_ROW_IN * (len(names) // 2 + 1) if is_below else 0
    size = (width * columns, height * rows + below)
    figure = Figure(figsize=size, dpi=_DPI, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    handles: dict[str, Any] = {}
    first: Any = None
    for number, plot in enumerate(plots, start=1):
        axes: Any = figure.add_subplot(rows, columns, number, sharex=first)
        first = axes if first is None else first
        _draw(axes, plot, styles)
        if not plot.log_axes and all(isinstance(x, int) for line in plot.series for x in line.x):
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        handles |= {handle.get_label(): handle for handle in axes.get_lines()}
        if not is_below:
            axes.legend(frameon=False, fontsize=8.5)
    if is_below:
        figure.legend(handles=list(handles.values()), loc="outside lower center", ncols=2, frameon=False, fontsize=8.5)
    return _png(figure)


def _draw(axes: Any, plot: Plot, styles: Mapping[str, int] | None = None) -> None:
    for place, line in enumerate(plot.series):
        number = place if styles is None else styles[line.name]
        colour = _COLOURS[number % len(_COLOURS)]
        marker = _MARKERS[number % len(_MARKERS)] if len(line.x) <= _MOST_MARKED else None
        dashes = _DASHES[number // len(_COLOURS) % len(_DASHES)]
        axes.plot(
            line.x, line.y, color=colour, marker=marker, linestyle=dashes, markersize=5, linewidth=1.6, label=line.name
        )
        if line.low is not None and line.high is not None:
            axes.fill_between(line.x, line.low, line.high, color=colour, alpha=0.15, linewidth=0)
    if plot.is_roc:
        axes.plot([0, 1], [0, 1], color="#bbbbbb", linewidth=1, linestyle="--", zorder=0)
        axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal")
    if "x" in plot.log_axes:
        places = sorted({x for line in plot.series for x in line.x})
        axes.set_xscale("log", base=2)
        axes.set_xticks(places, [f"{x:g}" for x in places])
    if "y" in plot.log_axes:
        axes.set_yscale("log")
    axes.set_title(plot.title, fontsize=11, loc="left")
    axes.set_xlabel(plot.x_label)
    axes.set_ylabel(plot.y_label)
    axes.grid(color="#e5e5e5", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _png(figure: Any) -> bytes:
    written = io.BytesIO()
    figure.savefig(written, format="png", metadata={"Software": f"chexmix {__version__}"})
    return written.getvalue()
