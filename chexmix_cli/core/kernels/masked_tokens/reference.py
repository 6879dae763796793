"""Masked-token corruption in plain numpy. B documents, T positions.

Each document hides exactly the rounded share of its image tokens and of its text tokens, each share drawn uniformly
between two bounds. All of it comes from the document's own seed by Philox: position t has the noise of counter t, the
tokens of the least noise are hidden, and two counters no position has draw the shares. Everything is in whole numbers,
so that every machine hides the same tokens. It runs where batches are made, on the CPU.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from chexmix_cli.core.errors import ShapeError
from chexmix_cli.core.kernels.philox.reference import first_word

#: Target of a position that does not count, as torch's cross-entropy has it.
IGNORED = -100
#: Shares are whole numbers of this one.
ONE = 1 << 30
#: Counters that draw the shares of image and text tokens.
IMAGE_COUNTER, TEXT_COUNTER = (1 << 32) - 1, (1 << 32) - 2


@dataclass(frozen=True, slots=True)
class Hiding:
    """What is hidden.

    Attributes:
        image_start, image_stop: range of image ids.
        specials: ids that are neither image nor text, four of them; never hidden.
        mask: id that takes a hidden token's place.
        image_ratio, text_ratio: bounds of the shares, in [0, 1].
        masked_targets_only: count a target only if the input does not show it. The last one of a document counts
            always: nothing in the input shows it.
    """

    image_start: int
    image_stop: int
    specials: tuple[int, int, int, int]
    mask: int
    image_ratio: tuple[float, float]
    text_ratio: tuple[float, float]
    masked_targets_only: bool

    def numbers(self) -> list[int]:
        """Return it as whole numbers, in the order of the kernel's arguments."""
        bounds = [round(bound * ONE) for bound in (*self.image_ratio, *self.text_ratio)]
        return [self.image_start, self.image_stop, *self.specials, self.mask, *bounds]


def hide_tokens(
    input_BT: Tensor, target_BT: Tensor, length_B: Tensor, seed_B: Tensor, hiding: Hiding
) -> tuple[Tensor, Tensor]:
    """Return inputs with the mask id at hidden positions, and targets with IGNORED where one does not count.

    Args:
        input_BT: ids, int64; padded with one of the specials.
        target_BT: the id each position must predict, int64; IGNORED where none does.
        length_B: tokens of each document, int64, at least 1.
        seed_B: int64, non-negative; nothing else decides what is hidden.
        hiding: what is hidden.

    Raises:
        ShapeError: if shapes or dtypes do not fit.
    """
    check(input_BT, target_BT, length_B, seed_B)
    ids_BT, seed_B1 = input_BT.cpu().numpy(), seed_B.cpu().numpy()[:, None]
    position_1T = np.arange(ids_BT.shape[1])[None]
    noise_BT = first_word(seed_B1, position_1T)
    start, stop, *specials, mask, image_low, image_high, text_low, text_high = hiding.numbers()
    is_image_BT = (ids_BT >= start) & (ids_BT < stop)
    is_text_BT = ~is_image_BT & ~np.isin(ids_BT, specials)
    is_hidden_BT = _least(noise_BT, is_image_BT, _share(seed_B1, IMAGE_COUNTER, image_low, image_high))
    is_hidden_BT |= _least(noise_BT, is_text_BT, _share(seed_B1, TEXT_COUNTER, text_low, text_high))
    is_hidden = torch.from_numpy(is_hidden_BT).to(input_BT.device)
    hidden_BT = input_BT.masked_fill(is_hidden, mask)
    if not hiding.masked_targets_only:
        return hidden_BT, target_BT.clone()
    is_shown = torch.cat((~is_hidden[:, 1:], torch.ones_like(is_hidden[:, :1])), dim=1)
    is_last = torch.arange(input_BT.shape[1], device=input_BT.device) == length_B[:, None] - 1
    return hidden_BT, target_BT.masked_fill(is_shown & ~is_last, IGNORED)


def check(input_BT: Tensor, target_BT: Tensor, length_B: Tensor, seed_B: Tensor) -> None:
    """Raise ShapeError unless these fit each other."""
    fits = input_BT.ndim == 2 and target_BT.shape == input_BT.shape
    fits = fits and length_B.shape == seed_B.shape == input_BT.shape[:1]
    if not fits or any(x.dtype != torch.int64 for x in (input_BT, target_BT, length_B, seed_B)):
        shapes = ", ".join(f"{tuple(x.shape)} {x.dtype}" for x in (input_BT, target_BT, length_B, seed_B))
        raise ShapeError(shapes, where="masked tokens", expected="(B, T), (B, T), (B,) and (B,), all int64")


def _share(seed_B1: NDArray[np.int64], counter: int, low: int, high: int) -> NDArray[np.int64]:
    """Return a share between the bounds, (B, 1), in parts of ``ONE``."""
    draw_B1 = (first_word(seed_B1, np.array([[counter]])) >> np.uint64(2)).astype(np.int64)
    return low + (((high - low) * draw_B1) >> 30)


def _least(
    noise_BT: NDArray[np.uint64], is_kind_BT: NDArray[np.bool_], share_B1: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Return the share of the positions of a kind that has the least noise; of equals the first ones."""
    count_B1 = (share_B1 * is_kind_BT.sum(axis=1, keepdims=True) + ONE // 2) >> 30
    order_BT = np.where(is_kind_BT, noise_BT, np.uint64(1 << 33)).argsort(axis=1, kind="stable")
    rank_BT = np.empty_like(order_BT)
    np.put_along_axis(rank_BT, order_BT, np.arange(order_BT.shape[1])[None], axis=1)
    is_least_BT: NDArray[np.bool_] = is_kind_BT & (rank_BT < count_B1)
    return is_least_BT
