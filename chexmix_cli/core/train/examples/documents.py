"""Documents for the decoder stages: every image's codes, in a few variants, beside its report's token ids."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from chexmix_cli.core.data.manifest import ManifestRow
from chexmix_cli.core.errors import TrainingError
from chexmix_cli.core.models.vqgan import Vqgan
from chexmix_cli.core.settings.model import ModelSettings
from chexmix_cli.core.settings.training import DocumentSettings
from chexmix_cli.core.text.tokenizer import TextTokenizer
from chexmix_cli.core.train.examples.films import Films, stack
from chexmix_cli.core.train.order import step_generator

#: Images encoded at a time.
ENCODED_TOGETHER = 32
#: Keeps the randomness of encoding apart from that of training steps, which count from 0.
_STREAM = 1_000_003


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
    """Examples of one split, in memory.

    Attributes:
        codes_NVP: image codes, (examples, variants, positions) uint16; variant 0 is the image as it is.
        reports: token ids of each report (without ``T_s``).
        ids: manifest ids.
    """

    codes_NVP: NDArray[np.uint16]
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
        TrainingError: if a row has no report, or one that does not fit the decoder behind its image; nothing is cut.
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
    """Raise TrainingError if a report of so many tokens does not fit the decoder behind its image."""
    room = model.decoder.max_positions - model.vocabulary.prompt_length
    if num_tokens > room:
        raise TrainingError(
            f"its report has {num_tokens} tokens", where=where, expected=f"at most {room} behind an image"
        )


def encode_films(
    vqgan: Vqgan,
    films: Films,
    settings: DocumentSettings,
    *,
    seed: int,
    progress: Callable[[int, int], None],
) -> NDArray[np.uint16]:
    """Return the codes of every film, (examples, variants, positions).

    Args:
        vqgan: trained image tokenizer.
        films: images of one split.
        settings: number and size of the changes.
        seed: of the changes.
        progress: called with (encodings done, encodings in all).
    """
    num_variants = settings.variants
    jobs = [(index, variant) for variant in range(num_variants) for index in range(len(films))]
    encoded: list[torch.Tensor] = []
    with torch.inference_mode():
        for start in range(0, len(jobs), ENCODED_TOGETHER):
            pixels = [
                _view(films, index, variant, settings, seed)
                for index, variant in jobs[start : start + ENCODED_TOGETHER]
            ]
            encoded.append(vqgan.encode(stack(pixels)))
            progress(min(start + ENCODED_TOGETHER, len(jobs)), len(jobs))
    codes_VNP = torch.cat(encoded).view(num_variants, len(films), -1)
    return codes_VNP.transpose(0, 1).contiguous().numpy().astype(np.uint16)


def _view(films: Films, index: int, variant: int, settings: DocumentSettings, seed: int) -> NDArray[np.float32]:
    if variant == 0:
        return films.exact(index)
    generator = step_generator(seed, _STREAM + index * settings.variants + variant)
    return films.changed(index, generator, crop=settings.crop_jitter, intensity=settings.intensity_jitter, flip=False)
