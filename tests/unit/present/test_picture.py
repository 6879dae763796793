"""The report picture: what is in it, that it is marked, and that a failure leaves nothing behind."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from chexmix_cli.core.errors import MachineError, ShapeError
from chexmix_cli.core.present import picture
from chexmix_cli.core.present.picture import MARK, report_picture

GREY = np.full((90, 120), 100, np.uint8)
LIGHT = np.full((64, 64), 200, np.uint8)


def draw(path, report="FINDINGS: Clear lungs.\nIMPRESSION: Normal.", original=GREY, roundtrip=LIGHT, **options):
    report_picture(original, roundtrip, report, path=path, **options)
    with Image.open(path) as image:
        image.load()
        return image


def test_both_pictures_and_the_mark_are_drawn(tmp_path):
    image = draw(tmp_path / "report.png").convert("RGB")
    pixels = np.asarray(image)
    third, middle = pixels.shape[0] // 2, pixels.shape[1] // 4
    assert pixels[third, middle].tolist() == [100, 100, 100]
    assert pixels[third, 3 * middle].tolist() == [200, 200, 200]
    mark = np.array([0x9C, 0x1C, 0x1C])
    rows = np.flatnonzero((pixels[:, 5] == mark).all(-1))
    assert len(rows) > 20, "no band of warning across the picture"
    assert (pixels[rows[5] : rows[-5], :, 0].max(0) > 0x9C).sum() > 200, "the band holds no writing"
    panel = pixels[rows[-1] + 1 :, pixels.shape[1] // 2 :]
    assert (panel == mark).all(-1).sum() > 500, "the round trip is not marked"


def test_the_file_says_that_it_is_synthetic(tmp_path):
    texts = draw(tmp_path / "report.png", title="Study 7").text
    assert MARK in texts["Comment"]
    assert "synthetic" in texts["Comment"]
    assert texts["DigitalSourceType"] == picture.SOURCE_TYPE
    assert texts["Title"] == "Study 7"
    assert texts["Software"].startswith("chexmix ")


def test_a_longer_report_makes_a_taller_picture_of_the_same_width(tmp_path):
    short, long = draw(tmp_path / "a.png"), draw(tmp_path / "b.png", report="No pleural effusion. " * 120)
    assert short.width == long.width
    assert long.height > short.height + 400


@pytest.mark.parametrize(
    "report",
    ["one two three " * 50, "W" * 400, "a\n\nb  c", "", "price $5 and $6_x$ \\frac", "肺炎 " * 90, "tab\tbed"],
)
def test_wrapping_keeps_every_character_and_fits(report):
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    measured = []

    class Renderer:
        inner = FigureCanvasAgg(Figure(dpi=120)).get_renderer()

        def get_text_width_height_descent(self, line, font, ismath):
            size = self.inner.get_text_width_height_descent(line, font, ismath)
            measured.append((line, size[0]))
            return size

    lines = picture.wrap(report, Renderer(), 3.0 * 120, 11.5)
    assert "".join(lines).replace(" ", "") == "".join(report.split())
    widths = dict(measured)
    assert all(widths.get(line, 0) <= 3.0 * 120 for line in lines)
    assert len(lines) >= len(report.splitlines())


def test_any_report_text_is_drawn_without_a_warning(tmp_path):
    assert draw(tmp_path / "report.png", report="肺炎 $x^{ \ufffd \x07 🫁 <|img|>", title="$5").height > 0


def test_rgb_arrays_and_pil_images_are_taken(tmp_path):
    one = draw(tmp_path / "a.png", original=np.stack([GREY] * 3, -1), roundtrip=Image.fromarray(LIGHT))
    other = draw(tmp_path / "b.png")
    assert np.array_equal(np.asarray(one), np.asarray(other))


@pytest.mark.parametrize(
    "bad", [GREY.astype(np.float32), GREY[None], np.zeros((4, 4, 4), np.uint8), np.zeros((0, 4), np.uint8)]
)
def test_other_arrays_are_refused(tmp_path, bad):
    with pytest.raises(ShapeError, match=r"the round trip has shape .*; expected uint8"):
        report_picture(GREY, bad, "", path=tmp_path / "report.png")
    assert not list(tmp_path.iterdir())


def test_a_failed_write_keeps_the_old_file_and_leaves_no_part(tmp_path, monkeypatch):
    path = tmp_path / "report.png"
    path.write_bytes(b"old")

    def fail(*_args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(MachineError, match=r"report\.png: the picture cannot be written \(No space left on device\)"):
        report_picture(GREY, LIGHT, "", path=path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_drawing_leaves_pyplot_and_the_backend_alone(tmp_path, repository):
    code = (
        "import sys, pathlib, numpy as np\n"
        "from chexmix_cli.core.present.picture import report_picture\n"
        "assert 'matplotlib' not in sys.modules\n"
        "report_picture(np.zeros((8, 8), np.uint8), np.zeros((8, 8), np.uint8), 'x', path=pathlib.Path(sys.argv[1]))\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "p.png")], check=True, cwd=repository)
