"""Plots: real PNGs, the same every time, no two lines alike."""

from __future__ import annotations

import dataclasses
import io

import numpy as np
import pytest
from PIL import Image

from chexmix_cli.core.evals.result import Curve, Series
from chexmix_cli.core.present.plots import curve_png, panels_png

CURVE = Curve(
    name="masking",
    title="AUROC under masking",
    x_label="share masked",
    y_label="AUROC",
    series=[Series(name="model", x=[0, 0.4, 0.8], y=[0.9, 0.8, 0.7], low=[0.8, 0.7, 0.6], high=[1, 0.9, 0.8])],
)


def test_a_plot_is_a_picture_and_the_same_every_time():
    png = curve_png(CURVE)
    assert png == curve_png(CURVE)
    pixels = np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))
    assert pixels.shape[0] > 300
    is_line = (np.abs(pixels.astype(int) - [0x00, 0x72, 0xB2]).sum(axis=2) < 30).sum()
    assert is_line > 200, "the line is drawn in its colour"
    assert curve_png(dataclasses.replace(CURVE, is_roc=True)) != png


@pytest.mark.parametrize("log_axes", ["", "x", "xy"])
def test_axes_are_logarithmic_where_it_is_said(monkeypatch, log_axes):
    from matplotlib.figure import Figure

    drawn, add_subplot = [], Figure.add_subplot

    def recorded(figure, *place, **how):
        drawn.append(add_subplot(figure, *place, **how))
        return drawn[-1]

    monkeypatch.setattr(Figure, "add_subplot", recorded)
    line = Series(name="step", x=[1, 8, 64], y=[16.0, 2.0, 0.25])
    panels_png([Curve(name="a", title="a", x_label="x", y_label="y", series=[line], log_axes=log_axes)])
    (axes,) = drawn
    assert (axes.get_xscale() == "log", axes.get_yscale() == "log") == ("x" in log_axes, "y" in log_axes)
    if log_axes:
        assert [text.get_text() for text in axes.get_xticklabels()] == ["1", "8", "64"]


def test_no_two_of_many_lines_look_alike(monkeypatch):
    from matplotlib.axes import Axes

    looks, plot = [], Axes.plot

    def recorded(axes, *points, **look):
        looks.append((look["color"], look["marker"], look["linestyle"]))
        return plot(axes, *points, **look)

    monkeypatch.setattr(Axes, "plot", recorded)
    lines = [Series(name=str(number), x=[0.2, 0.5], y=[number, number]) for number in range(20)]
    curve_png(Curve(name="many", title="many", x_label="x", y_label="y", series=lines))
    assert len(set(looks)) == 20


@pytest.mark.parametrize(("count", "beside", "below"), [(3, 2, 0), (5, 0, 1)])
def test_many_lines_of_several_plots_share_one_legend(monkeypatch, count, beside, below):
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    drawn = {Axes: 0, Figure: []}
    legends = {kind: kind.legend for kind in drawn}
    monkeypatch.setattr(Axes, "legend", lambda axes, **how: drawn.update({Axes: drawn[Axes] + 1}))
    monkeypatch.setattr(
        Figure,
        "legend",
        lambda figure, **how: drawn[Figure].append(len(how["handles"])) or legends[Figure](figure, **how),
    )
    lines = [Series(name=str(number), x=[0.2, 0.5], y=[number, number]) for number in range(count)]
    panels_png([Curve(name=name, title=name, x_label="x", y_label="y", series=lines) for name in ("a", "b")])
    assert (drawn[Axes], drawn[Figure]) == (beside, [count] * below)
