"""From an 8-bit picture to the square float image the tokenizer reads, and back. C channels, Y rows, X columns."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from chexmix_cli.core.settings.model import ImageSettings

#: Grey levels in the unit of model pixels, whose range is [-1, 1].
LEVELS_PER_UNIT = 127.5
#: 0..255 to [-1, 1], computed in float64 and rounded once, as the released pipeline does.
_SIGNED = (np.arange(256) / 255.0 * 2.0 - 1.0).astype(np.float32)


def from_levels(levels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return 8-bit levels as model pixels, float32 in [-1, 1], of the same shape."""
    return _SIGNED[levels]


def to_levels(pixels: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return model pixels in [-1, 1] as the nearest 8-bit levels, of the same shape: what :func:`from_levels` took."""
    levels: NDArray[np.uint8] = np.rint((pixels + 1) * LEVELS_PER_UNIT).astype(np.uint8)
    return levels


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
    return np.ascontiguousarray(from_levels(values_CYX))


def fit_mask(is_marked_YX: NDArray[np.bool_], settings: ImageSettings) -> NDArray[np.bool_]:
    """Return where a square model input shows marked pixels of its film, (Y, X) bool.

    Args:
        is_marked_YX: of the film, any size.
        settings: as for :func:`fit`, which places the film the same way.

    Returns:
        True where any part of a pixel is marked; False where the square was padded.
    """
    # Shares of area, not LANCZOS, whose lobes reach further; as floats, so that no small share is rounded away.
    image = Image.fromarray(is_marked_YX.astype(np.float32))
    shape = _crop if settings.geometry == "crop" else _pad
    return np.asarray(shape(image, settings.resolution_px, Image.Resampling.BOX)) > 0


def unfit(
    square: Image.Image,
    size: tuple[int, int],
    settings: ImageSettings,
    resampling: Image.Resampling = Image.Resampling.BICUBIC,
) -> tuple[Image.Image, tuple[int, int]]:
    """Return a square model picture at the film's scale and where its left upper corner lies in the film (x, y).

    Args:
        square: a picture of the model's size.
        size: width and height of the film.
        settings: as for :func:`fit`; a ``crop`` shows a part of the film only.
        resampling: how it is scaled.
    """
    width, height = size
    if settings.geometry == "crop":
        side = min(size)
        return square.resize((side, side), resampling), ((width - side) // 2, (height - side) // 2)
    inner_width, inner_height = _padded_size(size, settings.resolution_px)
    left, top = (settings.resolution_px - inner_width) // 2, (settings.resolution_px - inner_height) // 2
    film = square.crop((left, top, left + inner_width, top + inner_height))
    return film.resize(size, resampling), (0, 0)


def _crop(image: Image.Image, side: int, resampling: Image.Resampling = Image.Resampling.LANCZOS) -> Image.Image:
    scale = side / min(image.size)
    width, height = (max(side, round(extent * scale)) for extent in image.size)
    image = image.resize((width, height), resampling)
    left, top = (width - side) // 2, (height - side) // 2
    return image.crop((left, top, left + side, top + side))


def _pad(image: Image.Image, side: int, resampling: Image.Resampling = Image.Resampling.LANCZOS) -> Image.Image:
    width, height = _padded_size(image.size, side)
    canvas = Image.new(image.mode, (side, side))
    canvas.paste(image.resize((width, height), resampling), ((side - width) // 2, (side - height) // 2))
    return canvas


def _padded_size(size: tuple[int, int], side: int) -> tuple[int, int]:
    """Return width and height of a film inside a square."""
    scale = side / max(size)
    width, height = (min(side, max(1, round(extent * scale))) for extent in size)
    return width, height
