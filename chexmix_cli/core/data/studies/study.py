"""The unit of work: a study with its chosen image, or the refusal of an input. Picklable; pixels are read on demand."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from chexmix_cli.core.data.images.geometry import fit
from chexmix_cli.core.data.images.load import load_image
from chexmix_cli.core.data.presets import ResolvedPreset
from chexmix_cli.core.data.rendering.loaded_image import LoadedImage
from chexmix_cli.core.data.sources import Source
from chexmix_cli.core.data.views import PREFERENCE, View
from chexmix_cli.core.errors import DataError
from chexmix_cli.core.settings.inference import InputSettings
from chexmix_cli.core.text.header import AgeGroup


@dataclass(frozen=True, slots=True)
class StudyImage:
    """One image of a study, accepted by its header.

    Attributes:
        id: name of the image; of a DICOM image a salted hash.
        source: where its bytes are. Not for records or logs: a DICOM file's path may name a patient.
        view: projection, as far as the file says.
        view_source: what says it: ``header``, ``name`` (of a picture in a study's folder), ``manifest``; None where
            nothing does.
        age_group: of the patient, by the header.
        is_dicom: False for a plain picture.
        is_for_processing: raw detector data.
        notes: from the header.
        settings: bounds and frame that its pixels are read under.
    """

    id: str
    source: Source
    view: View
    is_dicom: bool
    is_for_processing: bool
    notes: tuple[str, ...]
    settings: InputSettings
    view_source: str | None = None
    age_group: AgeGroup | None = None

    def load(self, preset: ResolvedPreset) -> LoadedImage:
        """Return the whole film in 8 bits, with the notes of header and pixels.

        Raises:
            DataError: if its pixels cannot be read.
        """
        loaded = load_image(self.source, preset.intensity, self.settings)
        return replace(loaded, notes=[*self.notes, *loaded.notes])


@dataclass(frozen=True, slots=True)
class Study:
    """Images that belong together, and the one that stands for them.

    Attributes:
        id: name of the record.
        images: all usable images, in the order of their files.
        chosen: the frontal image, PA over AP over unknown.
    """

    id: str
    images: tuple[StudyImage, ...]
    chosen: StudyImage

    @property
    def others(self) -> tuple[StudyImage, ...]:
        """Return the images that were not chosen."""
        return tuple(image for image in self.images if image is not self.chosen)

    @property
    def candidates(self) -> tuple[StudyImage, ...]:
        """Return the chosen image and those that may stand in for it, best first: no lateral one for a frontal."""
        others = sorted((image for image in self.others if image.view is not View.LATERAL), key=_rank)
        return (self.chosen, *others)

    def load(self, preset: ResolvedPreset) -> LoadedStudy:
        """Return the chosen image, read; where it cannot be read the next best one, with a note.

        Raises:
            DataError: why the chosen image cannot be read, if none can.
        """
        failures: list[tuple[StudyImage, DataError]] = []
        for image in self.candidates:
            try:
                loaded = image.load(preset)
            except DataError as error:
                failures.append((image, error))
                continue
            notes = [
                f"image {failed.id} cannot be read ({error.code}); this is another one" for failed, error in failures
            ]
            loaded = replace(loaded, notes=[*loaded.notes, *notes])
            return LoadedStudy(image, loaded, tuple(failed for failed, _ in failures))
        raise failures[0][1]


@dataclass(frozen=True, slots=True)
class LoadedStudy:
    """A study's image as read.

    Attributes:
        image: which it is.
        loaded: the whole film in 8 bits, with notes.
        failed: images before it that cannot be read.
    """

    image: StudyImage
    loaded: LoadedImage
    failed: tuple[StudyImage, ...]


@dataclass(frozen=True, slots=True)
class Refusal:
    """Inputs that give no result, and why.

    Attributes:
        id: name of the record.
        error: reason and message, free of patient data.
        sources: the files refused; more than one where a study as a whole is. Not for records or logs.
    """

    id: str
    error: DataError
    sources: tuple[Source, ...]


def load_pixels(image: StudyImage, preset: ResolvedPreset) -> tuple[NDArray[np.float32], list[str]]:
    """Return what a model sees of an image, (C, Y, X) float32 in [-1, 1], with the notes of header and pixels.

    Raises:
        DataError: if its pixels cannot be read.
    """
    loaded = image.load(preset)
    return fit(loaded.image, preset.image, preset.channels), loaded.notes


def best_image(images: tuple[StudyImage, ...]) -> StudyImage:
    """Return the image that stands for a study: by view, then meant for the eye, then first."""
    return min(images, key=_rank)


def _rank(image: StudyImage) -> tuple[int, bool]:
    return PREFERENCE.index(image.view), image.is_for_processing
