"""Draw docs/images/help*.png: what ``--help`` says in a terminal of 80 columns; a test fails while they are stale.

Usage: python tools/help_pictures.py
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
from pathlib import Path
from unittest import mock

from matplotlib import get_data_path
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from chexmix_cli.__main__ import run

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "images"
#: Picture to the command line it shows.
PICTURES = {"help": ["--help"], "help-generate-report": ["generate-report", "--help"]}
COLUMNS = 80

_FONT_PX, _LINE_PX, _MARGIN_PX = 16, 21, 18
_BACKGROUND, _INK, _HEADING, _NAME = "#1e2127", "#d7dae0", "#e5c07b", "#7ec7d8"


def main() -> None:
    """Write the pictures."""
    for name, arguments in PICTURES.items():
        path = FOLDER / f"{name}.png"
        draw(shown(arguments), path)
        sys.stdout.write(f"wrote {path}\n")


def shown(arguments: list[str]) -> str:
    """Return a command line and what it prints in 80 columns."""
    printed = io.StringIO()
    with mock.patch.dict(os.environ, {"COLUMNS": str(COLUMNS)}), contextlib.redirect_stdout(printed):
        run(arguments)
    return f"$ chexmix {' '.join(arguments)}\n{printed.getvalue()}"


def draw(text: str, path: Path) -> None:
    """Write text as a picture of a terminal; the text itself stands in the file too, under ``text``."""
    lines = text.splitlines()
    fonts = Path(get_data_path()) / "fonts" / "ttf"
    plain = ImageFont.truetype(str(fonts / "DejaVuSansMono.ttf"), _FONT_PX)
    bold = ImageFont.truetype(str(fonts / "DejaVuSansMono-Bold.ttf"), _FONT_PX)
    cell_px = plain.getlength("M")
    size = (round(COLUMNS * cell_px) + 2 * _MARGIN_PX, len(lines) * _LINE_PX + 2 * _MARGIN_PX)
    image = Image.new("RGB", size, _BACKGROUND)
    pen = ImageDraw.Draw(image)
    for number, line in enumerate(lines):
        x, y = _MARGIN_PX, _MARGIN_PX + number * _LINE_PX
        if re.fullmatch(r"\S.*:", line):
            pen.text((x, y), line, _HEADING, bold)
            continue
        pen.text((x, y), line, _INK, plain)
        # The first column of a list: names of commands and options.
        name = re.match(r"  (\S.*?)(?=  )", line)
        if name:
            pen.text((x + 2 * cell_px, y), name[1], _NAME, plain)
    about = PngInfo()
    about.add_text("text", text)
    image.quantize(32).save(path, optimize=True, pnginfo=about)


if __name__ == "__main__":
    main()
