"""Plots and the page of an evaluation: real PNGs, escaped texts, nothing loaded from elsewhere."""

from __future__ import annotations

import io
import re
from html.parser import HTMLParser

import numpy as np
from PIL import Image

from chexmix_cli.core.evals.result import Case, Curve, Evaluation, Measurement, Series
from chexmix_cli.core.present.page import evaluation_page
from chexmix_cli.core.present.picture import MARK
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


def test_a_page_holds_everything_escaped_and_alone():
    evaluation = Evaluation(
        task="report",
        measurements=[
            Measurement(name="bleu", value=0.25, n=3, fields={"ref": "findings"}, interval=(0.1, 0.4)),
            Measurement(name="green", value=None, n=0, reason="no judge <given>"),
        ],
        model={"name": "mini & co"},
        curves=[CURVE],
        missing=[{"what": "RadGraph", "reason": "not installed"}],
        failed=[{"id": "bad<1>", "code": "CORRUPT", "message": "cut"}],
    )
    case = Case(id="x", group="worst by BLEU", texts={"report": "a <b> & c"}, pictures={"film": curve_png(CURVE)})
    page = evaluation_page(evaluation.to_dict(), [case], {"masking": curve_png(CURVE)})
    for text in (
        "0.25",
        "0.1 to 0.4",
        "no judge &lt;given&gt;",
        "mini &amp; co",
        "bad&lt;1&gt;",
        "a &lt;b&gt; &amp; c",
    ):
        assert text in page
    assert MARK in page
    assert "bleu|ref:findings|n:3|v:" in page
    assert page.count("data:image/png;base64,") == 2
    assert not re.search(r"(src|href)=\"(?!data:)", page)
    assert "<script" not in page

    class Balanced(HTMLParser):
        def __init__(self):
            super().__init__()
            self.open = []

        def handle_starttag(self, tag, attrs):
            if tag not in ("meta", "img", "br"):
                self.open.append(tag)

        def handle_endtag(self, tag):
            assert self.open.pop() == tag

    parser = Balanced()
    parser.feed(page)
    assert parser.open == []
