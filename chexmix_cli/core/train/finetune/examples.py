"""Codes of images and token ids of reports as sequences for the decoder.

Shape letters: N examples, V variants of an image, P image positions, B sequences, T positions.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from chexmix_cli.core.kernels.masked_tokens.reference import hide_tokens
from chexmix_cli.core.train.examples.code_cache import Codes
from chexmix_cli.core.train.objectives import token_hiding
from chexmix_cli.core.vocab import Vocabulary


def draw_variants(codes_NVP: Codes, count: int, generator: Generator) -> list[int]:
    """Return a variant for each of ``count`` images."""
    found: list[int] = torch.randint(codes_NVP.shape[1], (count,), generator=generator).tolist()
    return found


def image_sequences(codes_BP: NDArray[np.uint16], vocabulary: Vocabulary) -> tuple[Tensor, Tensor]:
    """Return ``I_s image I_E`` of each image, and which positions are the image's; both (B, T)."""
    token_ids_BT = torch.tensor([vocabulary.image_sequence(codes_P.tolist()) for codes_P in codes_BP])
    return token_ids_BT, vocabulary.is_image(token_ids_BT)


def hide_codes(token_ids_BT: Tensor, vocabulary: Vocabulary, image_ratio: tuple[float, ...], seed_B: Tensor) -> Tensor:
    """Return sequences with a share of their image tokens masked, as stage 2 masks them; (B, T).

    Args:
        token_ids_BT: as :func:`image_sequences` gives them.
        vocabulary: the id table.
        image_ratio: bounds of the share.
        seed_B: of each image, as :func:`objectives.hiding_seeds` gives them.
    """
    length_B = torch.full((len(token_ids_BT),), token_ids_BT.shape[1])
    return hide_tokens(token_ids_BT, token_ids_BT, length_B, seed_B, token_hiding(vocabulary, image_ratio))[0]


def report_sequences(
    reports: Sequence[Sequence[int]], vocabulary: Vocabulary, longest: int = 0
) -> tuple[Tensor, Tensor]:
    """Return ``T_s report`` of each report, padded at its end, and which positions are the report's; both (B, T).

    Padded as for a report of ``longest`` tokens, if none of these is longer.
    """
    length = 1 + max(longest, *(len(report) for report in reports))
    token_ids_BT = torch.full((len(reports), length), vocabulary.pad)
    token_ids_BT[:, 0] = vocabulary.begin_text
    for row, report in enumerate(reports):
        token_ids_BT[row, 1 : 1 + len(report)] = torch.tensor(report)
    lengths_B1 = torch.tensor([[len(report)] for report in reports])
    position_T = torch.arange(length)
    return token_ids_BT, (position_T > 0) & (position_T <= lengths_B1)


def spread(num_examples: int, most: int) -> list[int]:
    """Return up to ``most`` indices evenly over a split: a manifest often lists one source after the other."""
    indices: list[int] = torch.linspace(0, num_examples - 1, min(num_examples, most)).round().long().unique().tolist()
    return indices
