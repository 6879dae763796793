"""From an 8-bit picture to the square float image the tokenizer reads. C channels, Y rows, X columns."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from chexmix_cli.core.settings.model import ImageSettings

#: 0..255 to [-1, 1], computed in float64 and rounded once, as the released pipeline does.
_SIGNED = (np.arange(256) / 255.0 * 2.0 - 1.0).astype(np.float32)


def fit(image: Image.Image, settings: ImageSettings, channels: int) -> NDArray[np.float32]:
    """Return an 8-bit picture as a square model input.

    Args:
        image: mode ``L`` or ``RGB``, any size.
        settings: resolution and geometry; ``crop`` scales the short side and cuts the centre (as released), ``pad``
            scales the long side and adds black, so that the whole film stays.
        channels: 1 or 3, as the image tokenizer has.

    Returns:
        Array (C, Y, X), float32 in [-1, 1].
    """
    shape = _crop if settings.geometry == "crop" else _pad
    square = shape(image, settings.resolution_px)
    values = np.asarray(square.convert("L" if channels == 1 else "RGB"))
    values_CYX = values[None] if channels == 1 else values.transpose(2, 0, 1)
    return np.ascontiguousarray(_SIGNED[values_CYX])


def _crop(image: Image.Image, side: int) -> Image.Image:
    scale = side / min(image.size)
    width, height = (max(side, round(extent * scale)) for extent in image.size)
    image = image.resize((width, height), Image.Resampling.LANCZOS)
    left, top = (width - side) // 2, (height - side) // 2
    return image.crop((left, top, left + side, top + side))


def _pad(image: Image.Image, side: int) -> Image.Image:
    scale = side / max(image.size)
    width, height = (min(side, max(1, round(extent * scale))) for extent in image.size)
    canvas = Image.new(image.mode, (side, side))
    canvas.paste(image.resize((width, height), Image.Resampling.LANCZOS), ((side - width) // 2, (side - height) // 2))
    return canvas
