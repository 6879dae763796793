"""Studies with their drafts, made ready to be gone through on one page."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from chexmix_cli.core.present.pages import ReviewStudy, review_page
from chexmix_cli.core.present.pages.pictures import packed
from chexmix_cli.library.films import film_levels
from chexmix_cli.library.jobs.job import Job, Record
from chexmix_cli.library.results import error_code

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from chexmix_cli.core.data.sources import Source
    from chexmix_cli.core.errors import ChexmixError
    from chexmix_cli.core.settings.inference import ReviewPageSettings
    from chexmix_cli.library.films import Film
    from chexmix_cli.library.reports import Reporter, StudyReport

#: What a line of a manifest says of a film that an exported line must say again.
_KEYS = ("study", "patient", "split")


class Review:
    """Collects what one page shows.

    Args:
        reporter: writes the drafts; with ``explain`` their sentences have their evidence.
        settings: size and quality of the pictures.
        folder: what files are named within; None names them by their last part.
        is_beside: this is the folder that the page goes to.

    Attributes:
        studies: so far, in order.
    """

    def __init__(
        self, reporter: Reporter, settings: ReviewPageSettings, folder: Path | None, *, is_beside: bool = False
    ) -> None:
        self._reporter, self._settings, self._folder = reporter, settings, folder
        self._is_beside = is_beside
        self.studies: list[ReviewStudy] = []

    def process(self, films: list[Film]) -> list[ReviewStudy]:
        """Return a batch of films, read with their pictures, as studies to review."""
        results = self._reporter(films)
        trips = self._reporter.model.images.decode([result.codes for result in results])
        return [self._study(result, trip) for result, trip in zip(results, trips, strict=True)]

    def add(self, job: Job[Film], result: ReviewStudy | ChexmixError) -> None:
        """Take a study, or an input that was refused."""
        keys = {name: job.line[name] for name in _KEYS if name in job.line} if job.line else {}
        if isinstance(result, ReviewStudy):
            study = ReviewStudy(
                record=result.record, film=result.film, roundtrip=result.roundtrip, file=result.file, keys=keys
            )
        else:
            error = {"code": error_code(result), "message": result.with_hint}
            record = {"id": job.id, "status": "error", "error": error}
            file = self._name(job.sources[0]) if job.sources else None
            study = ReviewStudy(record=record, file=file, keys=keys)
        self.studies.append(study)

    @property
    def num_refused(self) -> int:
        """Return how many inputs gave no study."""
        return sum(study.record["status"] != "ok" for study in self.studies)

    def page(self) -> str:
        """Return the page of all studies."""
        model = self._reporter.model.weights.name
        return review_page(self.studies, model=model, film_px=self._settings.film_px, is_beside=self._is_beside)

    def _study(self, result: StudyReport, trip: NDArray[np.uint8]) -> ReviewStudy:
        record: Record = {"id": result.id, "status": "ok", **result.fields()}
        if result.sentences is not None:
            # The page paints what chance has not done.
            record["sentences"] = [
                sentence.to_dict() | {"drop_blocks": np.round(sentence.evident_blocks, 4).tolist()}
                for sentence in result.sentences
            ]
        film = result.film
        shown = film.picture or Image.fromarray(film_levels(film, result.codes, self._reporter.model.images))
        return ReviewStudy(
            record=record,
            film=self._packed(shown),
            roundtrip=self._packed(Image.fromarray(trip)),
            file=None if film.source is None else self._name(film.source),
        )

    def _packed(self, picture: Image.Image) -> bytes:
        return packed(picture, side_px=self._settings.film_px, quality=self._settings.quality)

    def _name(self, source: Source) -> str:
        """Return a file's name: within the folder, as far as it is in it, with ``!`` and the member of an archive."""
        path = Path(os.path.abspath(source.path))
        is_inside = self._folder is not None and path.is_relative_to(self._folder)
        name = path.relative_to(self._folder).as_posix() if is_inside and self._folder is not None else path.name
        return name if source.member is None else f"{name}!{source.member}"


def naming_folder(inputs: Sequence[str], page: Path) -> tuple[Path | None, bool]:
    """Return the folder that files are named within, and whether it is the page's: so what is exported finds them.

    It is the page's folder where all inputs lie in it, else the one they have in common; None for inputs on stdin.
    """
    common, beside = _common_folder(inputs), Path(os.path.abspath(page)).parent
    return (beside, True) if common is not None and common.is_relative_to(beside) else (common, False)


def _common_folder(inputs: Sequence[str]) -> Path | None:
    if "-" in inputs:
        return None
    paths = [os.path.abspath(one) for one in inputs]
    folders = [path if os.path.isdir(path) else os.path.dirname(path) for path in paths]
    try:
        return Path(os.path.commonpath(folders))
    except ValueError:
        # On several drives.
        return None
