"""What reading a film gives: its picture, notes on how it came about, and what decided its grey scale."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from PIL import Image

#: ``header``: stored display values, or the file's own window or LUT. ``pixels``: the film's own range or histogram,
#: so that each pixel's grey depends on all others.
GreyScale = Literal["header", "pixels"]


@dataclass(frozen=True, slots=True)
class LoadedImage:
    """A radiograph in 8 bits.

    Attributes:
        image: the whole film, mode ``L`` or ``RGB``.
        notes: what was done that a reader of the result should know; no text of the file.
        scale: what decided its grey scale.
    """

    image: Image.Image
    notes: list[str] = field(default_factory=list)
    scale: GreyScale = "header"
