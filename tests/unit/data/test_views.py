from __future__ import annotations

import pytest

from chexmix_cli.core.data.views import View, view_of_code, view_of_orientation, view_of_words


@pytest.mark.parametrize(
    ("code", "view"),
    [
        ("PA", View.PA),
        ("AP", View.AP),
        ("AP SUPINE", View.AP),
        ("AP_SUPINE", View.AP),
        ("AP AXIAL", View.AP),
        ("PA LLD", View.PA),
        ("POSTERO_ANTERIOR", View.PA),
        ("postero-anterior", View.PA),
        ("Antero-posterior", View.AP),
        ("LATERAL", View.LATERAL),
        ("LL", View.LATERAL),
        ("L", View.LATERAL),
        ("LA", View.LATERAL),
        ("RL", View.LATERAL),
        ("XTABLE LATERAL", View.LATERAL),
        ("LEFT LATERAL DECUBITUS", View.OTHER),
        ("RAO", View.OTHER),
        ("something else", View.OTHER),
        ("PA LATERAL", View.UNKNOWN),
        ("UNKNOWN", View.UNKNOWN),
        ("nan", View.UNKNOWN),
        ("", View.UNKNOWN),
        ("  ", View.UNKNOWN),
        (None, View.UNKNOWN),
    ],
)
def test_codes(code, view):
    assert view_of_code(code) is view


@pytest.mark.parametrize(
    ("texts", "view"),
    [
        (["view: PA"], View.PA),
        (["Thorax ap liegend"], View.AP),
        (["W Chest Lat."], View.LATERAL),
        (["CHEST (PA AND LAT)"], View.UNKNOWN),
        (["CHEST PA/AP"], View.FRONTAL),
        (["Chest frontal"], View.FRONTAL),
        (["chest frontal PA"], View.PA),
        ([None, "CHEST", "Thorax p.a.", "AP"], View.PA),
        (["Thorax a. p. liegend"], View.AP),
        (["chest A-P"], View.AP),
        (["PA/LAT"], View.UNKNOWN),
        (["CHEST PA AND LAT", "LATERAL"], View.LATERAL),
        (["L SPINE"], View.UNKNOWN),
        (["PORTABLE"], View.UNKNOWN),
        (["view1_frontal"], View.FRONTAL),
        (["APPLE PAPER LATTE"], View.UNKNOWN),
        ([], View.UNKNOWN),
    ],
)
def test_words(texts, view):
    assert view_of_words(texts) is view


@pytest.mark.parametrize(
    ("orientation", "view"),
    [
        ("L F", View.FRONTAL),
        ("R F", View.FRONTAL),
        ("A F", View.LATERAL),
        ("P F", View.LATERAL),
        ("AFL F", View.LATERAL),
        ("F", View.UNKNOWN),
        ("L R", View.UNKNOWN),
        ("", View.UNKNOWN),
        (None, View.UNKNOWN),
    ],
)
def test_orientation(orientation, view):
    assert view_of_orientation(orientation) is view
