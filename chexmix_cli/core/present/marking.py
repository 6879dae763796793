"""The marks of pictures that a model made in part: a strip under the picture, and metadata. Y X pixels.

The strip stands below the picture, so that no pixel of the result itself is touched by it.
"""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from chexmix_cli import __version__
from chexmix_cli.core.present.picture import MARK, SOURCE_TYPE

_TEXTS = (f"SYNTHETIC IN PART: {MARK}", "SYNTHETIC: AI-filled", "SYNTHETIC")
#: Font sizes tried, in pixels, and letters' share of the strip's height.
_SIZES_PX = (*range(48, 12, -4), 12, 11, 10, 9, 8, 7, 6, 5)
_LEGIBLE_PX = 10


def with_mark(picture_YX: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return a grey picture with a white strip below that says it is synthetic; the rows above are the picture's."""
    width = picture_YX.shape[1]
    text, size_px = _fitting(width)
    strip = Image.new("L", (width, round(1.5 * size_px) + 2), 255)
    font = ImageFont.load_default(size_px)
    ImageDraw.Draw(strip).text((width / 2, strip.height / 2), text, fill=0, font=font, anchor="mm")
    return np.concatenate([picture_YX, np.asarray(strip)])


def marked_png(picture_YX: NDArray[np.uint8], title: str) -> bytes:
    """Return a grey picture as a PNG with both marks.

    Args:
        picture_YX: the result.
        title: what it is. Give nothing that names a patient.
    """
    metadata = PngInfo()
    for name, text in (
        ("Software", f"chexmix {__version__}"),
        ("Title", title),
        ("Comment", f"{MARK}. Parts of this picture are synthetic."),
        ("DigitalSourceType", SOURCE_TYPE),
    ):
        metadata.add_text(name, text)
    written = io.BytesIO()
    Image.fromarray(with_mark(picture_YX)).save(written, format="PNG", pnginfo=metadata)
    return written.getvalue()


def _fitting(width_px: int) -> tuple[str, int]:
    """Return the longest text that is legible in a strip of a width, and its size; a small one where none is."""
    largest = min(_SIZES_PX[0], max(_LEGIBLE_PX, width_px // 32))
    for least in (_LEGIBLE_PX, _SIZES_PX[-1]):
        for text in _TEXTS:
            for size_px in _SIZES_PX:
                fits = ImageFont.load_default(size_px).getlength(text) <= width_px - 4
                if least <= size_px <= largest and fits:
                    return text, size_px
    return _TEXTS[-1], _SIZES_PX[-1]
