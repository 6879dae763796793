"""Films with a hidden part filled in by the model, and measured against what was hidden."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from chexmix_cli.core.data.images.geometry import unfit
from chexmix_cli.core.errors import DataError, Reason
from chexmix_cli.core.text.disclaimer import GENERATED_IN_PART
from chexmix_cli.library.films import Film
from chexmix_cli.library.jobs.job import Record

if TYPE_CHECKING:
    from chexmix_cli.core.evals.inpainting.scores import Scorer
    from chexmix_cli.core.infer.inpainting.masked_film import AnyMask, MaskedFilm
    from chexmix_cli.core.infer.inpainting.restorer import EncodedFilm
    from chexmix_cli.core.settings.inpainting import InpaintSettings
    from chexmix_cli.library.opened import OpenModel

MARK = GENERATED_IN_PART
#: Presets whose grey scale depends on nothing but the header.
_FIXED_SCALES = ("voi", "official-jpg")


@dataclass(frozen=True)
class FilledFilm:
    """A film with its hidden part filled in: AI-generated in part, preliminary, unverified.

    Attributes:
        film: as it was read.
        encoded: what is hidden of it, and its codes with and without that.
        codes_P: all codes after filling, (P,) int64; of the first sample where there are several.
        picture_YX: the filled film, uint8, as the model sees films: square, padded where it is not.
        samples: each sample's picture; empty where there is one fill only.
        settings: it was made under.
        extra_notes: notes on this fill, besides the film's own.
    """

    film: Film
    encoded: EncodedFilm
    codes_P: NDArray[np.int64]
    picture_YX: NDArray[np.uint8]
    samples: list[NDArray[np.uint8]]
    settings: InpaintSettings
    extra_notes: list[str]

    @property
    def id(self) -> str:
        """Return the id of the film."""
        return self.film.id

    @property
    def notes(self) -> list[str]:
        """Return what reading the film left in doubt, and the notes on the fill."""
        return [*self.film.notes, *self.extra_notes]

    @cached_property
    def scorer(self) -> Scorer:
        """Return what measures pictures of this film against the original and its round trip."""
        from chexmix_cli.core.evals.inpainting.scores import Scorer

        return Scorer(self.encoded)

    @cached_property
    def scores(self) -> Record:
        """Return ``psnr``, ``ssim`` and their ``ceiling``, of the hidden part and the whole, as a record has them."""
        return self.scorer.record(self.picture_YX)

    def fields(self) -> Record:
        """Return the result fields of a ``chexmix inpaint`` record."""
        region, fill = self.settings.region, self.settings.fill
        record: Record = {
            **self.film.fields,
            "mask": self._mask_fields(),
            "protocol": region.protocol,
            "strategy": fill.strategy,
            "choice": fill.choice,
            "joined": self.settings.picture.join,
            "size_px": len(self.picture_YX),
            **self.scores,
            "code_accuracy": self.scorer.code_accuracy(self.codes_P),
            "audit": self.encoded.audit(),
            "mark": MARK,
        }
        if self.notes:
            record["notes"] = self.notes
        if self.samples:
            record["samples"] = [{"psnr": dict(self.scorer.against(each, "original").psnr)} for each in self.samples]
        return record

    def _mask_fields(self) -> dict[str, Any]:
        masked, region = self.encoded.film, self.settings.region
        share = float(masked.is_hidden_YX.sum() / masked.is_film_YX.sum())
        found = {**masked.mask, "share": share}
        return found | ({"ring": region.ring, "blank": region.blank} if region.protocol == "leak-free" else {})


class Inpainter:
    """Fills hidden parts of films with one model under one mask.

    Args:
        model: with decoder and image tokenizer.
        settings: what is hidden from whom, how it is filled, how the fill is joined to the film.
        mask: what is hidden.
        seed: of the mask's position and of sampled codes.
    """

    def __init__(self, model: OpenModel, settings: InpaintSettings, mask: AnyMask, *, seed: int = 0) -> None:
        self.model, self.settings, self.seed = model, settings, seed
        self._mask, self._restorer = mask, model.restorer

    def __call__(self, films: Sequence[Film]) -> list[FilledFilm]:
        """Return each film of a batch, filled.

        Raises:
            DataError: if a film came in as codes: what is hidden is blanked in pixels.
        """
        shown = self.settings.picture
        encoded = self._restorer.encode([self._masked(film) for film in films], self.settings.region)
        restored = self._restorer.fill(encoded, self.settings.fill, seed=self.seed)
        results = []
        for film, one, result in zip(films, encoded, restored, strict=True):
            drawn = [result.filled_YX, *result.samples]
            picture_YX, *samples = one.join(drawn, shown.join, detail=shown.detail)
            notes = self._notes(film)
            results.append(FilledFilm(film, one, result.codes_P, picture_YX, samples, self.settings, notes))
        return results

    def whole_picture(self, filled: FilledFilm) -> NDArray[np.uint8]:
        """Return the filled film at the size and shape of the film as it was read, (Y, X) uint8."""
        from PIL import Image

        assert filled.film.picture is not None, "films without a picture are refused"
        whole = filled.film.picture.convert("L")
        shown, corner = unfit(Image.fromarray(filled.picture_YX), whole.size, self.model.preset.image)
        drawn = whole.copy()
        drawn.paste(shown, corner)
        picture_YX = np.asarray(drawn)
        if self.settings.picture.join == "none":
            return picture_YX
        return np.where(filled.encoded.film.is_hidden_film, picture_YX, np.asarray(whole))

    def dicom(self, filled: FilledFilm) -> bytes:
        """Return the filled film as a derived DICOM image, at the film's own size, marked as synthetic.

        The film must have been read from a DICOM file.
        """
        from chexmix_cli.core.data.dicom.file import parse_whole
        from chexmix_cli.core.present.derived_dicom import derived_dicom

        assert filled.film.image is not None, "not of a file"
        max_bytes = self.model.input.max_file_mb << 20
        source = parse_whole(filled.film.image.source.read(max_bytes), max_bytes)
        region, fill = self.settings.region, self.settings.fill
        what = f"{region.protocol} mask {_short(filled.encoded.film.mask)}, {fill.strategy}, seed {self.seed}"
        return derived_dicom(source, self.whole_picture(filled), model=self.model.weights.name, what=what)

    def _masked(self, film: Film) -> MaskedFilm:
        from chexmix_cli.core.infer.inpainting.masked_film import mask_film

        if film.picture is None:
            raise DataError(
                Reason.BAD_RECORD,
                "codes without a film",
                expected="files, or manifest lines",
                hint="what is hidden is blanked in pixels, before it is encoded",
            )
        return mask_film(
            film.picture,
            self._mask,
            self.model.preset,
            self.settings.region,
            grid_size=self.model.weights.settings.grid_size,
            seed=self.seed,
            key=film.id,
        )

    def _notes(self, film: Film) -> list[str]:
        is_fixed = self.model.preset.intensity in _FIXED_SCALES
        if is_fixed and film.scale in (None, "header"):
            return []
        return ["the grey scale is that of the whole film, hidden pixels included"]


def png(picture_YX: NDArray[np.uint8]) -> bytes:
    """Return a filled film as a PNG, marked as synthetic under the picture and in its metadata."""
    from chexmix_cli.core.present.marking import marked_png

    return marked_png(picture_YX, "Chest radiograph, hidden parts filled in by a model")


def panels(filled: FilledFilm, caption: str) -> bytes:
    """Return original, masked, result and error side by side, as one PNG."""
    from chexmix_cli.core.present.inpainting import panels_png

    encoded = filled.encoded
    return panels_png(encoded.original_YX, encoded.masked_YX, encoded.film.is_hidden_YX, filled.picture_YX, caption)


def _short(mask: Mapping[str, Any]) -> str:
    return " ".join(f"{name} {value}" for name, value in mask.items() if name != "kind")
