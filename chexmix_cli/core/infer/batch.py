"""Rows that are decoded together: their key-value cache, positions and masks.

Shape letters: B rows, T new positions, S attended positions, D hidden.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from chexmix_cli.core.models.attention import causal_mask
from chexmix_cli.core.models.decoder import Decoder


class Batch:
    """Prompts of any lengths, aligned at their ends; rows may leave, positions may be taken back.

    Prompts of one length take the decoder's plain causal path. Others are padded on the left: each row has its own
    positions, and nothing attends to padding but padding itself (a row of the mask that is all False has no softmax).

    Args:
        decoder: the model.
        prompts: token ids, none empty.
        max_new_tokens: most tokens that will follow a prompt.
        pad: id that padding positions hold; it has no influence.
    """

    def __init__(self, decoder: Decoder, prompts: Sequence[Sequence[int]], *, max_new_tokens: int, pad: int) -> None:
        longest = max(len(prompt) for prompt in prompts)
        device = decoder.embedding.weight.device
        padded = [[pad] * (longest - len(prompt)) + list(prompt) for prompt in prompts]
        self._decoder = decoder
        self._prompt_BT = torch.tensor(padded, device=device)
        # The last new token is chosen, never read.
        self._cache = decoder.new_cache(len(prompts), longest + max_new_tokens - 1)
        self._set_padding(torch.tensor([longest - len(prompt) for prompt in prompts], device=device))
        self.num_passes = 0

    def read_prompts(self) -> Tensor:
        """Return the final hidden state of each prompt's last position, (B, D)."""
        return self.read(self._prompt_BT)[:, -1]

    def read(self, token_ids_BT: Tensor) -> Tensor:
        """Return the final hidden states (B, T, D) of tokens behind those read so far; all stay in the cache."""
        start, num_new = self._cache.length, token_ids_BT.shape[1]
        positions_BT = attend_BTS = None
        if self._padding_B is not None:
            position_S = torch.arange(start + num_new, device=token_ids_BT.device)
            positions_BT = (position_S[start:] - self._padding_B[:, None]).clamp(min=0)
            is_token_BS = position_S >= self._padding_B[:, None]
            attend_BTS = causal_mask(num_new, start + num_new, token_ids_BT.device) & is_token_BS[:, None]
            attend_BTS |= position_S == position_S[start:, None]
        self.num_passes += 1
        state_BTD: Tensor = self._decoder(
            token_ids_BT, positions_BT=positions_BT, attend_BTS=attend_BTS, cache=self._cache
        )
        return state_BTD

    def take_back(self, num_positions: int) -> None:
        """Forget the last positions read (drafts that turned out wrong)."""
        self._cache.truncate(self._cache.length - num_positions)

    def keep(self, rows: Sequence[int]) -> None:
        """Keep only these rows, ascending; they become rows 0, 1, ..."""
        self._cache.keep_rows(rows)
        if self._padding_B is not None:
            self._set_padding(self._padding_B[list(rows)])

    def _set_padding(self, padding_B: Tensor) -> None:
        self._padding_B = padding_B if bool(padding_B.any()) else None
