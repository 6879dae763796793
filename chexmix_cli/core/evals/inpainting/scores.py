"""The numbers of one filled film: masked region and whole, against the original and against the codes' round trip."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chexmix_cli.core.evals.metrics.images import mean_ssim, psnr_db, ssim_map
from chexmix_cli.core.infer.inpainting.masked_film import film_area, touched_codes
from chexmix_cli.core.infer.inpainting.restorer import EncodedFilm
from chexmix_cli.core.vocab import grid_side

#: Regions and references, in the order they are reported.
REGIONS, REFERENCES = ("masked", "whole"), ("original", "roundtrip")
EQUAL = "infinite: the pictures are equal there"


@dataclass(frozen=True, slots=True)
class Similarity:
    """PSNR (dB, None where infinite) and SSIM of two pictures, by region."""

    psnr: Mapping[str, float | None]
    ssim: Mapping[str, float]


class Scorer:
    """Scores pictures against one film. What the square was padded with never counts.

    Args:
        encoded: the film, with what is hidden of it.
    """

    def __init__(self, encoded: EncodedFilm) -> None:
        self._rows, self._columns = film_area(encoded.film.is_film_YX)
        self._is_hidden = encoded.film.is_hidden_YX[self._rows, self._columns]
        self._references = {"original": encoded.original_YX, "roundtrip": encoded.roundtrip_YX}
        self._encoded = encoded
        is_film_P = _holds_film(encoded)
        self._is_counted_P = encoded.film.is_touched_P & is_film_P

    def against(self, picture_YX: NDArray[np.uint8], reference: str) -> Similarity:
        """Return how close a picture is to the original or the round trip."""
        picture = picture_YX[self._rows, self._columns]
        other = self._references[reference][self._rows, self._columns]
        similarity = ssim_map(picture, other)
        return Similarity(
            psnr={"masked": psnr_db(picture, other, self._is_hidden), "whole": psnr_db(picture, other)},
            ssim={"masked": mean_ssim(similarity, self._is_hidden), "whole": mean_ssim(similarity)},
        )

    def ceiling(self) -> Similarity:
        """Return how close the round trip is to the original: what the image tokenizer alone costs."""
        return self.against(self._encoded.roundtrip_YX, "original")

    def code_accuracy(self, codes_P: NDArray[np.int64]) -> float:
        """Return the share of codes with hidden pixels that are those of the whole film."""
        return float((codes_P == self._encoded.codes_P)[self._is_counted_P].mean())

    def record(self, picture_YX: NDArray[np.uint8]) -> dict[str, Any]:
        """Return the numbers of a picture as a record holds them; null where undefined, with the reason."""
        found = {name: self.against(picture_YX, name) for name in REFERENCES}
        ceiling = self.ceiling()
        psnr = {region: {name: found[name].psnr[region] for name in REFERENCES} for region in REGIONS}
        undefined = {
            f"psnr.{region}.{name}": EQUAL for region in REGIONS for name in REFERENCES if psnr[region][name] is None
        }
        undefined |= {f"ceiling.psnr.{region}": EQUAL for region in REGIONS if ceiling.psnr[region] is None}
        return {
            "psnr": psnr,
            "ssim": {region: {name: found[name].ssim[region] for name in REFERENCES} for region in REGIONS},
            "ceiling": {"psnr": dict(ceiling.psnr), "ssim": dict(ceiling.ssim)},
            **({"undefined": undefined} if undefined else {}),
        }


def _holds_film(encoded: EncodedFilm) -> NDArray[np.bool_]:
    """Return the codes (P,) whose squares show any of the film."""
    return touched_codes(encoded.film.is_film_YX, grid_side(len(encoded.codes_P)))
