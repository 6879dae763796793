"""What decides the tokens of a shard set. Two sets of one identity may be joined; one set never holds two."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from chexmix_cli.core.errors import DataError, Reason, SettingsError, require_same
from chexmix_cli.core.settings.load import build

#: Raised by one whenever files of an earlier version can no longer be read as they are.
SCHEMA_VERSION = 1
#: Codes are 16-bit numbers.
_MOST_CODES = 1 << 16


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardIdentity:
    """What made a shard set. Everything but ``part`` and ``num_parts`` is the same in all parts of a list.

    Attributes:
        codebook_hash: of the image tokenizer, as ``WeightsDir.codebook_hash``.
        preset, preset_hash: image preset.
        dtype: the image tokenizer computed in.
        device: what kind of device it computed on, ``cpu``, ``cuda`` or ``mps``: one sums in another order than the
            other, and a latent halfway between two codes may get the other one.
        views, frame: as in ``InputSettings``.
        num_codes, tokens_per_image: of the image tokenizer.
        num_text: text ids of the vocabulary.
        text_tokenizer_hash: None if the model has no text tokenizer; reports are left out then.
        rows: inputs a shard covers; the last one covers the rest.
        part, num_parts: which share of the list this is, counted from 0; 0 of 1 is all of it.
        schema_version: of the files.
    """

    codebook_hash: str
    preset: str
    preset_hash: str
    dtype: str
    views: str
    frame: int
    num_codes: int
    tokens_per_image: int
    num_text: int
    text_tokenizer_hash: str | None
    rows: int
    device: str = "cpu"  # what sets that do not say were made on, or nobody knows
    part: int = 0
    num_parts: int = 1
    schema_version: int = SCHEMA_VERSION

    def __post_init__(self) -> None:
        assert self.rows > 0, self.rows
        assert 0 <= self.part < self.num_parts, (self.part, self.num_parts)
        if self.num_codes > _MOST_CODES:
            raise SettingsError(f"a codebook of {self.num_codes}", where="shards", expected=f"at most {_MOST_CODES}")

    @classmethod
    def from_dict(cls, values: Any, where: str) -> Self:
        """Return the identity that a file states.

        Raises:
            DataError: if the file is damaged, or of another schema version.
        """
        if not isinstance(values, dict):
            raise DataError(Reason.CORRUPT, "no shard identity", where=where)
        version = values.get("schema_version")
        if version != SCHEMA_VERSION:
            raise DataError(
                Reason.UNKNOWN_FORMAT, f"shards of schema version {version}", where=where, expected=f"{SCHEMA_VERSION}"
            )
        try:
            return build(cls, values)
        except (SettingsError, AssertionError) as error:
            raise DataError(Reason.CORRUPT, f"a damaged shard identity ({error})", where=where) from None

    def to_dict(self) -> dict[str, Any]:
        """Return the values as a file states them."""
        return dataclasses.asdict(self)

    def whole(self) -> Self:
        """Return the identity of the list that this is a part of."""
        return dataclasses.replace(self, part=0, num_parts=1)

    def require(self, wanted: Mapping[str, Any], where: str) -> None:
        """Raise DataError ``WRONG_TOKENS`` that names both values, unless all ``wanted`` are ours."""
        hint = "they were made with other weights or settings; `chexmix data info` shows which"
        require_same(self, wanted, what="shards", where=where, hint=hint)
