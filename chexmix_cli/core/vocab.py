"""The one table of token ids: ranges, special ids, checked conversions, sequence building and parsing.

Three words are never swapped: a *code* is an index into the image codebook, a *token id* an index into the joint
vocabulary, a *position* an index into a sequence. Every conversion refuses what lies outside its range. Nothing here
imports torch; conversions take Python ints, numpy arrays and torch tensors alike.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any, TypeVar, cast

from chexmix_cli.core.errors import ShapeError, VocabularyError

Ids = TypeVar("Ids")


@dataclass(frozen=True, kw_only=True, slots=True)
class Vocabulary:
    """Ids of one model: text ``[0, num_text)``, image codes ``[image_start, image_start + num_codes)``, then the rest.

    Attributes:
        num_text: text rows; the specials below lie inside them.
        num_codes: size of the image codebook.
        image_start: token id of image code 0.
        tokens_per_image: image positions of one image, raster order.
        begin_image, end_image, begin_text: ``I_s``, ``I_E``, ``T_s``; ``begin_text`` also ends a report.
        mask, pad: ids of the mask and padding rows.
        num_rows: rows of the embedding and of the head.
    """

    num_text: int
    num_codes: int
    image_start: int
    tokens_per_image: int
    begin_image: int
    end_image: int
    begin_text: int
    mask: int
    pad: int
    num_rows: int

    def __post_init__(self) -> None:
        image_end = self.image_start + self.num_codes
        if not 0 < self.num_text <= self.image_start:
            raise VocabularyError(
                f"num_text is {self.num_text}", where="vocabulary", expected=f"1..image_start ({self.image_start})"
            )
        if self.num_codes < 1 or image_end > self.num_rows:
            raise VocabularyError(
                f"image ids {self.image_start}..{image_end - 1} do not fit {self.num_rows} rows", where="vocabulary"
            )
        for name in ("begin_image", "end_image", "begin_text"):
            if not 0 <= getattr(self, name) < self.num_text:
                raise VocabularyError(
                    f"{name} is {getattr(self, name)}", where="vocabulary", expected=f"a text id below {self.num_text}"
                )
        for name in ("mask", "pad"):
            value = getattr(self, name)
            if not 0 <= value < self.num_rows or self.image_start <= value < image_end:
                raise VocabularyError(f"{name} is {value}", where="vocabulary", expected="a row outside the image ids")
        specials = (self.begin_image, self.end_image, self.begin_text, self.mask, self.pad)
        if len(set(specials)) != len(specials):
            raise VocabularyError(f"special ids {specials} are not distinct", where="vocabulary")

    @property
    def image_stop(self) -> int:
        """Return the token id one past the last image id."""
        return self.image_start + self.num_codes

    @property
    def grid_size(self) -> int:
        """Return the positions along a side of the square image; errors as :func:`grid_side`."""
        return grid_side(self.tokens_per_image)

    @property
    def prompt_length(self) -> int:
        """Return the length of a report prompt, which is the position of the report's first token."""
        return self.tokens_per_image + 3

    def is_image(self, token_ids: Any) -> Any:
        """Return whether each id is an image id: a bool for an int, else a boolean array of the same shape."""
        return (token_ids >= self.image_start) & (token_ids < self.image_stop)

    def codes_to_ids(self, codes: Ids) -> Ids:
        """Return the token ids of image codes (same container and shape; arrays and tensors become int64).

        Raises:
            VocabularyError: if a code lies outside ``[0, num_codes)`` or is no whole number.
        """
        _check_range(codes, 0, self.num_codes, "image code")
        return cast(Ids, _shift(codes, self.image_start))

    def ids_to_codes(self, token_ids: Ids) -> Ids:
        """Return the image codes of token ids (same container and shape; arrays and tensors become int64).

        Raises:
            VocabularyError: if an id is no image id; a text id never becomes a neighbouring code.
        """
        _check_range(token_ids, self.image_start, self.image_stop, "image token id")
        return cast(Ids, _shift(token_ids, -self.image_start))

    def check_text(self, token_ids: Ids) -> Ids:
        """Return ``token_ids`` unchanged if all are text ids, else raise VocabularyError."""
        _check_range(token_ids, 0, self.num_text, "text token id")
        return token_ids

    def image_sequence(self, codes: Sequence[int]) -> list[int]:
        """Return ``I_s image I_E`` for one image's codes (the input of embeddings)."""
        if len(codes) != self.tokens_per_image:
            raise VocabularyError(f"an image of {len(codes)} codes", expected=f"{self.tokens_per_image} codes")
        return [self.begin_image, *self.codes_to_ids(list(codes)), self.end_image]

    def report_prompt(self, codes: Sequence[int]) -> list[int]:
        """Return ``I_s image I_E T_s``: the prompt after which the report's tokens follow."""
        return [*self.image_sequence(codes), self.begin_text]

    def document(self, codes: Sequence[int], report_ids: Sequence[int]) -> list[int]:
        """Return one training document, ``I_s image I_E T_s report`` (the next document's ``I_s`` ends it)."""
        self.check_text(list(report_ids))
        for name in ("begin_image", "end_image", "begin_text"):
            if getattr(self, name) in report_ids:
                raise VocabularyError(f"the report holds the special id {name}", expected="ordinary text ids")
        return [*self.report_prompt(codes), *report_ids]

    def parse_document(self, token_ids: Sequence[int]) -> tuple[list[int], list[int]]:
        """Return the codes and the report ids of one document, the inverse of :meth:`document`.

        Raises:
            VocabularyError: if a marker is missing or an id stands where it cannot.
        """
        end = self.tokens_per_image + 1
        markers = ((0, self.begin_image, "I_s"), (end, self.end_image, "I_E"), (end + 1, self.begin_text, "T_s"))
        for position, marker, name in markers:
            if len(token_ids) <= position or token_ids[position] != marker:
                found = token_ids[position] if len(token_ids) > position else "nothing"
                raise VocabularyError(f"position {position} holds {found}", expected=f"{name} ({marker})")
        codes = self.ids_to_codes(list(token_ids[1:end]))
        return codes, list(self.check_text(list(token_ids[end + 2 :])))

    def cut_report(self, token_ids: Sequence[int]) -> list[int]:
        """Return the report ids up to the first end (``T_s``) or the next document's ``I_s``, both exclusive."""
        for position, token_id in enumerate(token_ids):
            if token_id in (self.begin_text, self.begin_image):
                return list(token_ids[:position])
        return list(token_ids)


def grid_side(num_positions: int) -> int:
    """Return how many positions stand along a side of a square image; ShapeError if so many are no square."""
    side = math.isqrt(num_positions)
    if side * side != num_positions:
        raise ShapeError(f"{num_positions} codes", where="image positions", expected="those of a square image")
    return side


def _check_range(ids: Any, start: int, stop: int, name: str) -> None:
    if isinstance(ids, (list, tuple)):
        if not all(isinstance(value, Integral) for value in ids):
            raise VocabularyError(f"{name}s that are no whole numbers", expected=f"{start}..{stop - 1}")
        low, high = (min(ids), max(ids)) if ids else (start, start)
    elif isinstance(ids, Integral):
        low = high = int(ids)
    else:
        ids = _as_int64(ids, name)
        low, high = (start, start) if 0 in ids.shape else (int(ids.min()), int(ids.max()))
    if low < start or high >= stop:
        raise VocabularyError(f"{name} {low if low < start else high} is out of range", expected=f"{start}..{stop - 1}")


def _shift(ids: Any, offset: int) -> Any:
    if isinstance(ids, (list, tuple)):
        return type(ids)(value + offset for value in ids)
    if isinstance(ids, Integral):
        return int(ids) + offset
    return _as_int64(ids, "id") + offset


def _as_int64(ids: Any, name: str) -> Any:
    """Return an array or tensor in int64: in the small types that files store ids in, adding an offset wraps around."""
    dtype = str(ids.dtype).removeprefix("torch.")
    if not dtype.startswith(("int", "uint")):
        raise VocabularyError(f"{name}s of {dtype}", expected="whole numbers")
    return ids.astype("int64") if hasattr(ids, "astype") else ids.long()


#: The released model (CHEXMIX paper release; ids as its inference code and tokenizer use them). The mask and pad rows
#: are published only as "padding": which is which is our inference.
RELEASED = Vocabulary(
    num_text=50368,
    num_codes=8192,
    image_start=50368,
    tokens_per_image=1024,
    begin_image=50295,
    end_image=50296,
    begin_text=50256,
    mask=58560,
    pad=58561,
    num_rows=58562,
)


def compact(*, num_text: int, num_codes: int, tokens_per_image: int) -> Vocabulary:
    """Return the layout of our own models: text with its three specials last, image codes, mask, pad."""
    return Vocabulary(
        num_text=num_text,
        num_codes=num_codes,
        image_start=num_text,
        tokens_per_image=tokens_per_image,
        begin_text=num_text - 3,
        begin_image=num_text - 2,
        end_image=num_text - 1,
        mask=num_text + num_codes,
        pad=num_text + num_codes + 1,
        num_rows=num_text + num_codes + 2,
    )
