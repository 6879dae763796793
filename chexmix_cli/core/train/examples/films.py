"""A manifest's images: as the model will see them, and with the changes that training makes to them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

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


class Picture(NamedTuple):
    """What training keeps of a film; both uint8, as tensors, which travel between processes without a copy.

    Attributes:
        exact_CYX: the film exactly as inference prepares it.
        film: at twice the model's resolution at most, whole, (Y, X) or (Y, X, 3): what changes are made of.
    """

    exact_CYX: Tensor
    film: Tensor

    @property
    def num_bytes(self) -> int:
        """Return the bytes of both."""
        return self.exact_CYX.nbytes + self.film.nbytes


def reduced(image: Image.Image, settings: ModelSettings) -> Picture:
    """Return what training keeps of an 8-bit picture, a whole film."""
    exact = to_levels(fit(image, settings.image, settings.vqgan.image_channels))
    side = settings.image.resolution_px * _OVERSAMPLING
    film = image.copy()
    film.thumbnail((side, side), Image.Resampling.LANCZOS)
    return Picture(torch.from_numpy(exact), torch.from_numpy(np.array(film)))


class ManifestFilms(Sequence[Picture]):
    """The films of manifest rows, each read when it is asked for, through the model's own intensity preset; picklable.

    Args:
        rows: of the manifest.
        settings: of the model.
    """

    def __init__(self, rows: Sequence[ManifestRow], settings: ModelSettings) -> None:
        self._files = [(row.file, row.id) for row in rows]
        self._settings = settings
        self._preset = resolve_preset("model", settings.image, settings.vqgan.image_channels)

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> Picture:  # type: ignore[override]
        """Return a film.

        Raises:
            DataError: naming the row, if it cannot be read; training never continues without it.
        """
        file, row_id = self._files[index]
        try:
            image = load_image(Source.named(file), self._preset.intensity, InputSettings()).image
        except DataError as error:
            raise DataError(error.reason, error.what, detail=error.detail, where=row_id, hint=error.hint) from None
        return reduced(image, self._settings)


class Films:
    """Images of one split. Arrays are (C, Y, X) float32 in [-1, 1].

    Args:
        pictures: in memory, or read when they are asked for.
        settings: resolution, geometry and channels of the model.
    """

    def __init__(self, pictures: Sequence[Picture], settings: ModelSettings) -> None:
        self._pictures, self._settings = pictures, settings

    def __len__(self) -> int:
        return len(self._pictures)

    def picture(self, index: int) -> Picture:
        """Return what is kept of a film."""
        return self._pictures[index]

    def exact(self, index: int) -> NDArray[np.float32]:
        """Return an image exactly as inference prepares it."""
        return exact_pixels(self.picture(index))

    def changed(
        self, index: int, draw: Sequence[float], *, crop: float, intensity: float, flip: bool
    ) -> NDArray[np.float32]:
        """Return an image with the change of a draw; see :meth:`change`."""
        return self.change(self.picture(index), draw, crop=crop, intensity=intensity, flip=flip)

    def change(
        self, picture: Picture, draw: Sequence[float], *, crop: float, intensity: float, flip: bool
    ) -> NDArray[np.float32]:
        """Return an image with a random crop, intensity change and, if ``flip``, a mirror half of the time.

        Args:
            picture: as :meth:`picture` gives it.
            draw: what :func:`draw_change` gives.
            crop: largest share of a side cut away.
            intensity: largest relative change of contrast, brightness and gamma.
            flip: mirrors it, or not, as the draw says.
        """
        film = Image.fromarray(picture.film.numpy())
        if crop > 0:
            width, height = (extent * (1 - crop * abs(draw[0])) for extent in film.size)
            left = (film.width - width) * (draw[1] + 1) / 2
            top = (film.height - height) * (draw[2] + 1) / 2
            film = film.crop((round(left), round(top), round(left + width), round(top + height)))
        if flip and draw[3] > 0:
            film = ImageOps.mirror(film)
        values = (fit(film, self._settings.image, self._settings.vqgan.image_channels) + 1) / 2
        values = values ** math.exp(intensity * draw[4])
        values = (values - 0.5) * (1 + intensity * draw[5]) + 0.5 + 0.5 * intensity * draw[6]
        changed: NDArray[np.float32] = np.clip(values * 2 - 1, -1, 1).astype(np.float32)
        return changed


def manifest_films(rows: Sequence[ManifestRow], settings: ModelSettings) -> Films:
    """Return the films of manifest rows, each read when it is asked for; errors as :class:`ManifestFilms`."""
    return Films(ManifestFilms(rows, settings), settings)


def exact_pixels(picture: Picture) -> NDArray[np.float32]:
    """Return an image exactly as inference prepares it."""
    return from_levels(picture.exact_CYX.numpy())


def draw_change(generator: Generator) -> list[float]:
    """Return the randomness of one change of an image: seven numbers from -1 to 1."""
    found: list[float] = (torch.rand(7, generator=generator, dtype=torch.float64) * 2 - 1).tolist()
    return found


def stack(images: Sequence[NDArray[np.float32]]) -> Tensor:
    """Return images as one tensor (B, C, Y, X)."""
    return torch.from_numpy(np.stack(images))
