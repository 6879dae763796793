"""Plots: real PNGs, the same every time, no two lines alike."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from chexmix_cli.core.evals.result import Curve, Series
from chexmix_cli.core.present.plots import curve_png

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
    assert curve_png(Curve(**{**{f: getattr(CURVE, f) for f in CURVE.__slots__}, "is_roc": True})) != png


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
