"""Patient Orientation (PS3.3 C.7.6.1.1.1): a frontal film is shown with the patient's left at its right, feet below."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from chexmix_cli.core.data.dicom.file import DicomFile

_SIDES, _ENDS = ("L", "R"), ("H", "F")


def stored_directions(file: DicomFile) -> tuple[str, str] | None:
    """Return where rows and columns of a frontal film run to, as letters; None if the header does not say both."""
    letters = [part[:1] for part in (file.text("PatientOrientation") or "").upper().split()]
    if len(letters) != 2:
        return None
    row, column = letters
    is_frontal = (row in _SIDES and column in _ENDS) or (row in _ENDS and column in _SIDES)
    return (row, column) if is_frontal else None


def is_upright(file: DicomFile) -> bool:
    """Return whether a film is stored as it is to be shown, or the header does not say how it is stored."""
    return stored_directions(file) in (None, ("L", "F"))


def turn_upright(pixels: NDArray[Any], directions: tuple[str, str]) -> NDArray[Any]:
    """Return a film with its rows running to the patient's left and its columns to the feet.

    Args:
        pixels: (Y, X) or (Y, X, C).
        directions: of the stored rows and columns.
    """
    row, column = directions
    if row in _ENDS:
        pixels, row, column = np.swapaxes(pixels, 0, 1), column, row
    if row == "R":
        pixels = pixels[:, ::-1]
    if column == "H":
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)
