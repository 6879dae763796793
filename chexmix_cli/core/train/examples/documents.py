"""Documents for the decoder stages: every image's codes, in a few variants, with its report's token ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from chexmix_cli.core.data.manifest import ManifestRow
from chexmix_cli.core.errors import TrainingError
from chexmix_cli.core.settings.model import ModelSettings
from chexmix_cli.core.text.tokenizer import TextTokenizer
from chexmix_cli.core.train.examples.code_cache import Codes


class DocumentSource(Protocol):
    """Examples of one split: images, each in one or several encodings, with their reports.

    Attributes:
        ids: manifest ids.
        num_variants: encodings of each image; number 0 is the image as it is.
    """

    @property
    def ids(self) -> Sequence[str]: ...

    @property
    def num_variants(self) -> int: ...

    def __len__(self) -> int: ...

    def codes(self, index: int, variant: int) -> list[int]:
        """Return the codes of one encoding of an image."""

    def report(self, index: int) -> list[int]:
        """Return the token ids of a report (without ``T_s``)."""

    def report_lengths(self) -> list[int]:
        """Return the number of tokens of every report."""


@dataclass(frozen=True, slots=True)
class DocumentSet:
    """Examples of one split: reports in memory, codes there or in files.

    Attributes:
        codes_NVP: image codes, (examples, variants, positions) uint16; variant 0 is the image as it is.
        reports: token ids of each report (without ``T_s``).
        ids: manifest ids.
    """

    codes_NVP: Codes
    reports: list[list[int]]
    ids: list[str]

    def __len__(self) -> int:
        return len(self.reports)

    @property
    def num_variants(self) -> int:
        """Return the number of encodings of each image."""
        return int(self.codes_NVP.shape[1])

    def codes(self, index: int, variant: int) -> list[int]:
        """Return the codes of one encoding of an image."""
        found: list[int] = self.codes_NVP[index, variant].tolist()
        return found

    def report(self, index: int) -> list[int]:
        """Return the token ids of a report."""
        return self.reports[index]

    def report_lengths(self) -> list[int]:
        """Return the number of tokens of every report."""
        return [len(report) for report in self.reports]


def encode_reports(rows: Sequence[ManifestRow], tokenizer: TextTokenizer, model: ModelSettings) -> list[list[int]]:
    """Return the token ids of every row's report.

    Raises:
        TrainingError: if a row has no report, or one that does not fit the decoder after its image; nothing is cut.
    """
    reports: list[list[int]] = []
    for row in rows:
        if row.report is None:
            raise TrainingError(
                "has neither findings nor impression", where=row.id, expected="a report for every image"
            )
        token_ids = tokenizer.encode(row.report)
        require_room(len(token_ids), model, row.id)
        reports.append(token_ids)
    return reports


def require_room(num_tokens: int, model: ModelSettings, where: str) -> None:
    """Raise TrainingError if a report of so many tokens does not fit the decoder after its image."""
    room = model.decoder.max_positions - model.vocabulary.prompt_length
    if num_tokens > room:
        raise TrainingError(
            f"its report has {num_tokens} tokens", where=where, expected=f"at most {room} after an image"
        )
