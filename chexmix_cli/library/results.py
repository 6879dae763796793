"""What the verbs of a model give back."""

from __future__ import annotations

from dataclasses import dataclass

from chexmix_cli.core.errors import ChexmixError, DataError
from chexmix_cli.library.films import Film
from chexmix_cli.library.jobs.job import Record


@dataclass(frozen=True, slots=True)
class Failure:
    """A film that gave no result, among many that did.

    Attributes:
        id: of the record it would have been.
        error: why; a :class:`DataError` has a ``reason``.
    """

    id: str
    error: ChexmixError

    @property
    def code(self) -> str:
        """Return the code that a command's record has under ``error.code``."""
        return error_code(self.error)


def error_code(error: ChexmixError) -> str:
    """Return the machine-readable code of an error: its reason, or what kind of error it is."""
    return error.code if isinstance(error, DataError) else type(error).__name__.removesuffix("Error").upper()


@dataclass(frozen=True, slots=True)
class Tokens:
    """The image codes of a film.

    Attributes:
        film: they are of.
        codes: indices into the image codebook, raster order, ``tokens_per_image`` of them.
        codebook_hash: of the image tokenizer that made them.
    """

    film: Film
    codes: list[int]
    codebook_hash: str

    def fields(self) -> Record:
        """Return the result fields of a ``chexmix tokenize`` record."""
        return {**self.film.fields, "codebook_hash": self.codebook_hash, "codes": self.codes}
