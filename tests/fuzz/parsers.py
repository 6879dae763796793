"""The table of parsers: every way in which bytes of others, or of a disk, come into the programme."""

from __future__ import annotations

import film_parsers
import stored_parsers
import text_parsers
import weight_parsers
from parser import Parser, Picture

__all__ = ["PARSERS", "Parser", "Picture"]

PARSERS: tuple[Parser, ...] = (
    *film_parsers.PARSERS,
    *text_parsers.PARSERS,
    film_parsers.REQUESTS,
    *weight_parsers.PARSERS,
    *stored_parsers.PARSERS,
)
