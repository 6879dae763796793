"""A manifest's images in memory: as the model will see them, and with the changes that training makes to them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Generator, Tensor

from chexmix_cli.core.data.images.geometry import fit, from_levels, to_levels
from chexmix_cli.core.data.images.load import load_image
from chexmix_cli.core.data.manifest import ManifestRow
from chexmix_cli.core.data.presets import resolve_preset
from chexmix_cli.core.data.sources import Source
from chexmix_cli.core.errors import DataError
from chexmix_cli.core.settings.inference import InputSettings
from chexmix_cli.core.settings.model import ModelSettings

#: Films are kept at twice the model's resolution, so that a random crop still has detail to scale down from.
_OVERSAMPLING = 2


class Films:
    """Images of one split. Arrays are (C, Y, X) float32 in [-1, 1].

    Args:
        images: 8-bit pictures, whole films.
        settings: resolution, geometry and channels of the model.
    """

    def __init__(self, images: Sequence[Image.Image], settings: ModelSettings) -> None:
        self._settings = settings
        self._exact: list[NDArray[np.uint8]] = []
        self._films: list[Image.Image] = []
        side = settings.image.resolution_px * _OVERSAMPLING
        for image in images:
            self._exact.append(to_levels(self._fit(image)))
            film = image.copy()
            film.thumbnail((side, side), Image.Resampling.LANCZOS)
            self._films.append(film)

    def __len__(self) -> int:
        return len(self._exact)

    @property
    def num_bytes(self) -> int:
        """Return the memory that the pictures take."""
        films = sum(film.width * film.height * len(film.getbands()) for film in self._films)
        return films + sum(pixels.nbytes for pixels in self._exact)

    def exact(self, index: int) -> NDArray[np.float32]:
        """Return an image exactly as inference prepares it."""
        return from_levels(self._exact[index])

    def changed(
        self, index: int, draw: Sequence[float], *, crop: float, intensity: float, flip: bool
    ) -> NDArray[np.float32]:
        """Return an image with a random crop, intensity change and, if ``flip``, a mirror half of the time.

        Args:
            index: of the image.
            draw: what :func:`draw_change` gives.
            crop: largest share of a side cut away.
            intensity: largest relative change of contrast, brightness and gamma.
        """
        film = self._films[index]
        if crop > 0:
            width, height = (extent * (1 - crop * abs(draw[0])) for extent in film.size)
            left = (film.width - width) * (draw[1] + 1) / 2
            top = (film.height - height) * (draw[2] + 1) / 2
            film = film.crop((round(left), round(top), round(left + width), round(top + height)))
        if flip and draw[3] > 0:
            film = ImageOps.mirror(film)
        values = (self._fit(film) + 1) / 2
        values = values ** math.exp(intensity * draw[4])
        values = (values - 0.5) * (1 + intensity * draw[5]) + 0.5 + 0.5 * intensity * draw[6]
        changed: NDArray[np.float32] = np.clip(values * 2 - 1, -1, 1).astype(np.float32)
        return changed

    def _fit(self, image: Image.Image) -> NDArray[np.float32]:
        return fit(image, self._settings.image, self._settings.vqgan.image_channels)


def draw_change(generator: Generator) -> list[float]:
    """Return the randomness of one change of an image: seven numbers from -1 to 1."""
    found: list[float] = (torch.rand(7, generator=generator, dtype=torch.float64) * 2 - 1).tolist()
    return found


def stack(images: Sequence[NDArray[np.float32]]) -> Tensor:
    """Return images as one tensor (B, C, Y, X)."""
    return torch.from_numpy(np.stack(images))


def load_films(
    rows: Sequence[ManifestRow], settings: ModelSettings, progress: Callable[[str, int, int], None]
) -> Films:
    """Return the films of manifest rows, read through the model's own intensity preset.

    Raises:
        DataError: naming the row, if one cannot be read; training never continues without it.
    """
    preset = resolve_preset("model", settings.image, settings.vqgan.image_channels)
    images = []
    for done, row in enumerate(rows, start=1):
        try:
            images.append(load_image(Source.named(row.file), preset.intensity, InputSettings()).image)
        except DataError as error:
            raise DataError(error.reason, error.what, detail=error.detail, where=row.id, hint=error.hint) from None
        progress("read images", done, len(rows))
    return Films(images, settings)
