"""Pictures as pages hold them."""

from __future__ import annotations

import io
from dataclasses import dataclass

from PIL import Image


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture of a record.

    Attributes:
        caption: what it shows.
        content: PNG, JPEG or WebP.
    """

    caption: str
    content: bytes


def packed(picture: Image.Image, *, side_px: int = 512, quality: int = 75) -> bytes:
    """Return a picture in grey as WebP, reduced until its longer side is at most ``side_px``."""
    grey = picture.convert("L")
    grey.thumbnail((side_px, side_px), Image.Resampling.LANCZOS)
    written = io.BytesIO()
    grey.save(written, format="WEBP", quality=quality, method=2)
    return written.getvalue()
