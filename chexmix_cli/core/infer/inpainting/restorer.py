"""From films with hidden parts to films with these filled in. Letters: B films, C Y X pixels, P positions, E code size.

Everything is grey and 8-bit where it leaves the model: a radiograph has one channel, whatever the image tokenizer has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from chexmix_cli.core.data.images.geometry import to_levels
from chexmix_cli.core.infer.image_tokenizer import ImageTokenizer
from chexmix_cli.core.infer.inpainting.classical_fills import tension_blends
from chexmix_cli.core.infer.inpainting.code_filler import CodeFiller, Filled
from chexmix_cli.core.infer.inpainting.masked_film import MaskedFilm, film_area
from chexmix_cli.core.settings.inpainting import FillSettings, Join, RegionSettings
from chexmix_cli.core.vocab import grid_side

Grey = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class EncodedFilm:
    """A film with a hidden part, encoded with and without it.

    Attributes:
        film: what is hidden.
        original_YX: the whole film, as the model is given it.
        masked_YX: the same, its hidden pixels blanked.
        roundtrip_YX: the whole film through the image tokenizer: what a perfect fill of codes would give.
        codes_P: of the whole film. The model never sees them with ``leak-free``.
        context_P: the codes that are filled in: those of the blanked film with ``leak-free``, else ``codes_P``.
        blanked_P: codes of the blanked film, for the audit.
    """

    film: MaskedFilm
    original_YX: Grey
    masked_YX: Grey
    roundtrip_YX: Grey
    codes_P: NDArray[np.int64]
    context_P: NDArray[np.int64]
    blanked_P: NDArray[np.int64]

    @property
    def length_px(self) -> float:
        """Return the length of the tension fill that continues this film: half the side of a code, in pixels."""
        return len(self.original_YX) / grid_side(len(self.codes_P)) / 2

    def join(self, drawn: Sequence[Grey], how: Join, *, detail: float) -> list[Grey]:
        """Return pictures that a model drew of this film, each joined to the film's visible pixels.

        Args:
            drawn: whole pictures.
            how: ``blend``: continued from the visible pixels without a seam (:func:`tension_blends`), within the area
                of the film: padding takes no part. ``paste``: hidden pixels as drawn. ``none``: all as drawn.
            detail: share of the model's own detail in a ``blend``.
        """
        if how == "none":
            return list(drawn)
        is_hidden_YX = self.film.is_hidden_YX
        if how == "paste":
            return [np.where(is_hidden_YX, drawn_YX, self.original_YX) for drawn_YX in drawn]
        area = film_area(self.film.is_film_YX)
        blends = tension_blends(
            self.original_YX[area].astype(np.float64),
            [drawn_YX[area].astype(np.float64) for drawn_YX in drawn],
            is_hidden_YX[area],
            detail=detail,
            length_px=self.length_px,
        )
        joined = []
        for blend in blends:
            joined_YX = self.original_YX.copy()
            joined_YX[area] = np.rint(blend).astype(np.uint8)
            joined.append(joined_YX)
        return joined

    def audit(self) -> dict[str, Any]:
        """Return how many codes that hold no hidden pixel know of hidden pixels all the same.

        ``agreement`` is the share of codes that are the same with the hidden pixels and without. Where it is below 1,
        encoding the whole film and hiding codes (``paper``) leaves traces of what is hidden in codes that stay visible.
        """
        film = self.film
        is_same_P = self.codes_P == self.blanked_P
        is_beyond_P = ~film.is_touched_P & ~film.is_ring_P
        parts: dict[str, Any] = {"touched": int(film.is_touched_P.sum()), "filled": int(film.is_filled_P.sum())}
        for name, is_there_P in (("ring", film.is_ring_P), ("beyond", is_beyond_P)):
            count = int(is_there_P.sum())
            parts[name] = {"codes": count, "agreement": float(is_same_P[is_there_P].mean()) if count else None}
        return parts


@dataclass(frozen=True, slots=True)
class Restored:
    """One film filled.

    Attributes:
        codes_P: all codes after filling; of the first sample where there are several.
        filled_YX: the picture drawn from them, as a whole; the mean of the samples where there are several.
        samples: each sample's picture; empty where there is one fill only.
    """

    codes_P: NDArray[np.int64]
    filled_YX: Grey
    samples: list[Grey]


class Restorer:
    """Fills hidden parts of films with one model.

    Args:
        images: the image tokenizer.
        filler: fills codes.
    """

    def __init__(self, images: ImageTokenizer, filler: CodeFiller) -> None:
        self.images, self.filler = images, filler

    def encode(
        self, films: Sequence[MaskedFilm], settings: RegionSettings, *, whole: Sequence[EncodedFilm] | None = None
    ) -> list[EncodedFilm]:
        """Return films encoded with and without their hidden parts.

        Args:
            films: to encode, all in one batch.
            settings: which codes are the context.
            whole: the same films, encoded before with other masks; what depends on no mask is taken from them.

        Raises:
            ShapeError, MachineError: as :meth:`ImageTokenizer.encode`.
        """
        if not films:
            return []
        if whole is None:
            codes_BP = self.images.encode(np.stack([film.original_CYX for film in films]))
            roundtrips = [grey(picture) for picture in self.images.decode(codes_BP)]
        else:
            codes_BP = torch.from_numpy(np.stack([film.codes_P for film in whole]))
            roundtrips = [film.roundtrip_YX for film in whole]
        blanked_BP = self.images.encode(np.stack([film.blanked_CYX for film in films]))
        context_BP = blanked_BP if settings.protocol == "leak-free" else codes_BP
        return [
            EncodedFilm(
                film=film,
                original_YX=grey_of_pixels(film.original_CYX),
                masked_YX=grey_of_pixels(film.blanked_CYX),
                roundtrip_YX=roundtrips[row],
                codes_P=codes_BP[row].numpy(),
                context_P=context_BP[row].numpy(),
                blanked_P=blanked_BP[row].numpy(),
            )
            for row, film in enumerate(films)
        ]

    def fill(self, films: Sequence[EncodedFilm], settings: FillSettings, *, seed: int) -> list[Restored]:
        """Return films with their hidden parts filled, all in one batch.

        Raises:
            MachineError: if memory runs out.
        """
        if not films:
            return []
        context_BP = torch.from_numpy(np.stack([film.context_P for film in films]))
        is_filled_BP = torch.from_numpy(np.stack([film.film.is_filled_P for film in films]))
        fills: list[tuple[Tensor, NDArray[np.uint8]]] = []
        for number in range(settings.samples):
            found = self.filler.fill(context_BP, is_filled_BP, settings, seed=seed, sample_number=number)
            fills.append((found.codes_BP, self._draw(found)))
        restored = []
        for row in range(len(films)):
            samples = [grey(pictures[row]) for _, pictures in fills]
            mean_YX = samples[0] if len(samples) == 1 else np.rint(np.mean(samples, axis=0)).astype(np.uint8)
            restored.append(Restored(fills[0][0][row].numpy(), mean_YX, samples if len(samples) > 1 else []))
        return restored

    def _draw(self, filled: Filled) -> NDArray[np.uint8]:
        side = self.images.settings.grid_size
        vectors_BEYX = filled.vectors_BPE.unflatten(1, (side, side)).permute(0, 3, 1, 2)
        return self.images.decode_vectors(vectors_BEYX)


def grey_of_pixels(pixels_CYX: NDArray[np.float32]) -> Grey:
    """Return model input as a grey picture, (Y, X) uint8."""
    levels_YXC = to_levels(pixels_CYX.transpose(1, 2, 0))
    return grey(levels_YXC[..., 0] if levels_YXC.shape[2] == 1 else levels_YXC)


def grey(picture: NDArray[np.uint8]) -> Grey:
    """Return a picture (Y, X) or (Y, X, 3) in grey, (Y, X)."""
    return picture if picture.ndim == 2 else np.asarray(Image.fromarray(picture).convert("L"))
