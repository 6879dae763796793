"""The way from a file to its picture in 8 bits, whatever kind of file it is."""

from __future__ import annotations

from dataclasses import replace

from chexmix_cli.core.data.dicom.file import parse_whole
from chexmix_cli.core.data.dicom.render import render_dicom
from chexmix_cli.core.data.dicom.triage import view_of
from chexmix_cli.core.data.images.burned_text import text_notes
from chexmix_cli.core.data.images.pictures import render_picture
from chexmix_cli.core.data.images.plausibility import pose_notes, require_film
from chexmix_cli.core.data.presets import Intensity
from chexmix_cli.core.data.rendering.loaded_image import LoadedImage
from chexmix_cli.core.data.sources import Source, sniff
from chexmix_cli.core.data.views import View
from chexmix_cli.core.errors import DataError, Reason
from chexmix_cli.core.settings.inference import InputSettings


def load_image(source: Source, intensity: Intensity, settings: InputSettings) -> LoadedImage:
    """Return a file's picture; whether it shows a chest is not asked here.

    Raises:
        DataError: with a reason, if it cannot be read, has one value only, or is noise.
    """
    max_bytes = settings.max_file_mb << 20
    data = source.read(max_bytes)
    kind, view = sniff(data[:132]), View.UNKNOWN
    if kind == "dicom":
        file = parse_whole(data, max_bytes)
        loaded, view = render_dicom(file, settings, intensity), view_of(file)
    elif kind == "picture":
        loaded = render_picture(data, settings, intensity)
    else:
        raise DataError(Reason.UNKNOWN_FORMAT, "neither DICOM nor a picture", expected="DICOM, PNG, JPEG or TIFF")
    doubts = require_film(loaded.image) + text_notes(loaded.image, settings)
    if view not in (View.LATERAL, View.OTHER):
        doubts += pose_notes(loaded.image)
    return replace(loaded, notes=[*loaded.notes, *doubts])
