"""What of a film is hidden: pixels of the model's square, and the codes that hold them. No model is needed for it.

Two kinds: codes hidden by a pattern and a share (nested, ``position_masks.py``), whose pixels are the squares they
stand for; or pixels of the film as it was read, by a box or a mask picture, with every pixel of the square that scaling
mixes them into, and all codes these touch.
Y X pixels, G codes along a side, P = G G image positions in raster order.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from chexmix_cli.core.data.images.geometry import fit, fit_mask, unfit
from chexmix_cli.core.data.presets import ResolvedPreset
from chexmix_cli.core.errors import DataError, Reason, SettingsError
from chexmix_cli.core.infer.inpainting.classical_fills import harmonic_fill
from chexmix_cli.core.infer.position_masks import hidden_positions, hiding_order
from chexmix_cli.core.settings.choices import Pattern
from chexmix_cli.core.settings.inpainting import RegionSettings

Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class PatternMask:
    """Codes hidden by a pattern."""

    pattern: Pattern
    ratio: float

    def describe(self) -> dict[str, Any]:
        """Return what a record says of it."""
        return {"kind": "ratio", "pattern": self.pattern, "ratio": self.ratio}


@dataclass(frozen=True, slots=True)
class BoxMask:
    """A rectangle of the film as it was read, in its pixels."""

    x: int
    y: int
    width: int
    height: int

    def describe(self) -> dict[str, Any]:
        """Return what a record says of it."""
        return {"kind": "box", "box": [self.x, self.y, self.width, self.height]}

    def on(self, height: int, width: int) -> Mask:
        """Return the hidden pixels of a film.

        Raises:
            DataError: if the box leaves the film, or is the whole of it.
        """
        if self.x + self.width > width or self.y + self.height > height:
            raise DataError(
                Reason.BAD_RECORD,
                f"the box {self.x},{self.y},{self.width},{self.height} leaves the film",
                where="--box",
                expected=f"inside {width} x {height} px",
            )
        is_hidden = np.zeros((height, width), bool)
        is_hidden[self.y : self.y + self.height, self.x : self.x + self.width] = True
        return is_hidden


@dataclass(frozen=True, slots=True)
class PictureMask:
    """Pixels of the film that a mask picture of its size marks."""

    is_hidden_YX: Mask

    def describe(self) -> dict[str, Any]:
        """Return what a record says of it."""
        return {"kind": "mask", "pixels": int(self.is_hidden_YX.sum())}

    def on(self, height: int, width: int) -> Mask:
        """Return the hidden pixels of a film.

        Raises:
            DataError: if it has another size.
        """
        if self.is_hidden_YX.shape != (height, width):
            rows, columns = self.is_hidden_YX.shape
            raise DataError(
                Reason.BAD_RECORD,
                f"the mask has {columns} x {rows} px",
                where="--mask",
                expected=f"the film's {width} x {height}",
            )
        return self.is_hidden_YX


AnyMask = PatternMask | BoxMask | PictureMask


def parse_box(text: str) -> BoxMask:
    """Return the box of ``x,y,w,h``.

    Raises:
        SettingsError: if it is not four whole numbers, or has no area.
    """
    found = re.fullmatch(r"\s*(\d{1,6})\s*,\s*(\d{1,6})\s*,\s*(\d{1,6})\s*,\s*(\d{1,6})\s*", text)
    numbers = [int(number) for number in found.groups()] if found else []
    if not numbers or 0 in numbers[2:]:
        raise SettingsError(f"is {text!r}", where="--box", expected="x,y,w,h in pixels, w and h above 0")
    return BoxMask(*numbers)


def read_mask(path: Path) -> PictureMask:
    """Return the mask of a picture: what is not black is hidden.

    Raises:
        SettingsError: if it cannot be read, or hides nothing or everything.
    """
    try:
        with Image.open(path, formats=("PNG",)) as image:
            image.load()
            values = np.asarray(image if len(image.getbands()) == 1 and image.mode != "P" else image.convert("L"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise SettingsError(f"cannot be read ({type(error).__name__})", where="--mask", expected="a PNG") from None
    is_hidden_YX: Mask = values != 0
    if is_hidden_YX.all() or not is_hidden_YX.any():
        what = "everything" if is_hidden_YX.all() else "nothing"
        raise SettingsError(f"hides {what}", where="--mask", expected="black where the film stays, white where not")
    return PictureMask(is_hidden_YX)


@dataclass(frozen=True, slots=True)
class MaskedFilm:
    """A film as the model is given it, with what is hidden of it.

    Attributes:
        original_CYX: the whole film, float32 in [-1, 1].
        blanked_CYX: the same with its hidden pixels blanked: a function of the visible ones only.
        is_film_YX: where the square shows the film and not padding.
        is_hidden_YX: hidden pixels of the film.
        is_hidden_film: the same in the film's own pixels, of any size.
        is_touched_P: codes that hold hidden pixels.
        is_ring_P: the codes around these.
        is_filled_P: codes the model fills: the touched ones, with ``leak-free`` those of the rings, too.
        mask: what was asked for, for the record.
    """

    original_CYX: NDArray[np.float32]
    blanked_CYX: NDArray[np.float32]
    is_film_YX: Mask
    is_hidden_YX: Mask
    is_hidden_film: Mask
    is_touched_P: Mask
    is_ring_P: Mask
    is_filled_P: Mask
    mask: Mapping[str, Any]


def mask_film(
    film: Image.Image,
    mask: AnyMask,
    preset: ResolvedPreset,
    settings: RegionSettings,
    *,
    grid_size: int,
    seed: int,
    key: str,
) -> MaskedFilm:
    """Return a film with what is hidden of it.

    Args:
        film: as read, 8 bits.
        mask: what to hide.
        preset: geometry and channels.
        settings: protocol, ring, blank.
        grid_size: codes along a side.
        seed, key: of a pattern's draw (``hiding_order``); the key is the film's id.

    Raises:
        DataError: if the mask does not fit the film, hides none of what the model sees of it, or all.
    """
    is_film_YX = fit_mask(np.ones((film.height, film.width), bool), preset.image)
    if isinstance(mask, PatternMask):
        order_P = hiding_order(mask.pattern, grid_size, seed=seed, key=key)
        is_touched_P = hidden_positions(order_P, mask.ratio)
        side = preset.resolution_px // grid_size
        is_hidden_YX = is_touched_P.reshape(grid_size, grid_size).repeat(side, axis=0).repeat(side, axis=1)
        is_hidden_YX &= is_film_YX
        is_hidden_film = _on_film(is_hidden_YX, film, preset)
    else:
        is_hidden_film = mask.on(film.height, film.width)
        # Scaling mixes neighbours: a pixel of the square is hidden if it knows anything of a hidden one.
        is_hidden_YX = fit_mask(_reached(is_hidden_film, preset), preset.image)
        is_touched_P = touched_codes(is_hidden_YX, grid_size)
    if not is_hidden_YX.any() or (is_hidden_YX >= is_film_YX).all():
        what = "all" if is_hidden_YX.any() else "nothing"
        raise DataError(
            Reason.BAD_RECORD, f"the mask hides {what} of what the model sees of the film", expected="a part"
        )
    rings = settings.ring if settings.protocol == "leak-free" else 0
    is_filled_P = _grown(is_touched_P, grid_size, rings)
    pixels_CYX = fit(film, preset.image, preset.channels)
    return MaskedFilm(
        original_CYX=pixels_CYX,
        blanked_CYX=_blank(pixels_CYX, is_hidden_YX, is_film_YX, settings),
        is_film_YX=is_film_YX,
        is_hidden_YX=is_hidden_YX,
        is_hidden_film=is_hidden_film,
        is_touched_P=is_touched_P,
        is_ring_P=_grown(is_touched_P, grid_size, 1) & ~is_touched_P,
        is_filled_P=is_filled_P,
        mask={**mask.describe(), "seed": seed} if isinstance(mask, PatternMask) else mask.describe(),
    )


def _on_film(is_hidden_YX: Mask, film: Image.Image, preset: ResolvedPreset) -> Mask:
    """Return hidden pixels of the square in the film's own pixels."""
    square = Image.fromarray(is_hidden_YX.astype(np.uint8))
    shown, corner = unfit(square, film.size, preset.image, Image.Resampling.NEAREST)
    whole = Image.new("L", film.size)
    whole.paste(shown, corner)
    return np.asarray(whole) > 0


def _reached(is_hidden_film: Mask, preset: ResolvedPreset) -> Mask:
    """Return the film's pixels that share a scaled pixel with hidden ones: LANCZOS reads three pixels to each side."""
    height, width = is_hidden_film.shape
    extent = min(height, width) if preset.geometry == "crop" else max(height, width)
    scale = extent / preset.resolution_px
    if scale == 1:
        return is_hidden_film
    reach = math.ceil(3 * max(scale, 1.0) - scale / 2) + 1
    found: Mask = ndimage.maximum_filter(is_hidden_film.astype(np.uint8), size=2 * reach + 1) > 0
    return found


def _blank(
    pixels_CYX: NDArray[np.float32], is_hidden_YX: Mask, is_film_YX: Mask, settings: RegionSettings
) -> NDArray[np.float32]:
    """Return model input whose hidden pixels are a function of the visible ones."""
    blanked_CYX = pixels_CYX.copy()
    rows, columns = film_area(is_film_YX)
    for channel_YX in blanked_CYX:
        if settings.blank == "mean":
            channel_YX[is_hidden_YX] = channel_YX[is_film_YX & ~is_hidden_YX].mean(dtype=np.float64)
        else:
            area_YX = channel_YX[rows, columns]
            area_YX[:] = harmonic_fill(area_YX.astype(np.float64), is_hidden_YX[rows, columns])
    return blanked_CYX


def film_area(is_film_YX: Mask) -> tuple[slice, slice]:
    """Return the rows and columns of the square that show the film."""
    rows, columns = np.flatnonzero(is_film_YX.any(axis=1)), np.flatnonzero(is_film_YX.any(axis=0))
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def touched_codes(is_hidden_YX: Mask, grid_size: int) -> Mask:
    """Return the codes (P,) whose squares hold any of the pixels."""
    side = len(is_hidden_YX) // grid_size
    found: Mask = is_hidden_YX.reshape(grid_size, side, grid_size, side).any(axis=(1, 3)).ravel()
    return found


def _grown(is_marked_P: Mask, grid_size: int, rings: int) -> Mask:
    """Return the codes and those up to ``rings`` steps from them, diagonal ones too."""
    if rings == 0:
        return is_marked_P
    square = np.ones((2 * rings + 1, 2 * rings + 1), bool)
    grown: Mask = ndimage.binary_dilation(is_marked_P.reshape(grid_size, grid_size), square).ravel()
    return grown
