"""Rows that are decoded together: their key-value cache, positions and masks.

Shape letters: B rows, T new positions, S attended positions, D hidden.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from chexmix_cli.core.infer.decoding.prefixes import Prefix
from chexmix_cli.core.models.attention import causal_mask
from chexmix_cli.core.models.decoder import Decoder, KvCache, OnLayer

#: Most positions of prompts that a CPU reads in one pass: products are at their rate long before, and what a layer
#: makes of many more takes longer a position, and memory (``benchmarks/prefixes.py --together``).
_MOST_POSITIONS = 4096


class Batch:
    """Prompts of any lengths, aligned at their ends; rows may leave, and each may take back what it read last.

    All rows write to the same slot of the cache. What a row has there counts or does not: padding in front of its
    prompt does not, nor does a draft that it took back while another row kept its own. Each row counts its positions
    by what counts, and attends to that; a padding position attends to itself (a row of the mask that is all False has
    no softmax). While everything counts in every row, the decoder's plain causal path is taken.

    What rows hold is kept on the CPU, where it is decided: asking a GPU for it would wait for the GPU.

    Args:
        decoder: the model.
        prompts: token ids, none empty.
        max_new_tokens: most tokens that will follow a prompt.
        pad: id that padding positions hold; it has no influence.
        num_spare: further slots of the cache, for drafts that some rows accept and others reject.
        known: what the last rows have in place of a pass over their prompts: the prompt as it was read before, or the
            number of the row in front of them that reads the same one.

    Attributes:
        num_passes: passes of the decoder so far.
        num_attended: slots of the cache that passes after the prompts' have read, all rows together.
    """

    def __init__(
        self,
        decoder: Decoder,
        prompts: Sequence[Sequence[int]],
        *,
        max_new_tokens: int,
        pad: int,
        num_spare: int = 0,
        known: Sequence[Prefix | int] = (),
    ) -> None:
        longest = max(len(prompt) for prompt in prompts)
        padded = [[pad] * (longest - len(prompt)) + list(prompt) for prompt in prompts]
        self._decoder, self._device = decoder, decoder.embedding.weight.device
        self._prompt_BT, self._known = torch.tensor(padded), known
        # The last new token is chosen, never read.
        self._cache = self._new_cache(len(prompts), longest + max_new_tokens - 1 + num_spare)
        self._length_B = torch.tensor([len(prompt) for prompt in prompts])
        #: What counts of the slots in use, (B, S); None: everything.
        self._counts_BS: Tensor | None = None
        self.num_passes = self.num_attended = 0

    @property
    def room(self) -> int:
        """Return how many slots of the cache are free."""
        return self._cache.capacity - self._cache.length

    def read_prompts(self, layers: Collection[int] = ()) -> tuple[Tensor, dict[int, Tensor]]:
        """Read the prompts that are not known.

        Args:
            layers: whose states are wanted.

        Returns:
            The final hidden state of each prompt's last position, (B, 1, D); and the states of the layers, (B, T, D)
            each, aligned at the prompts' ends.
        """
        (num_rows, longest), num_known = self._prompt_BT.shape, len(self._known)
        is_token_BT = torch.arange(longest) >= longest - self._length_B[:, None]
        last: list[Tensor] = []
        states = {layer: list[Tensor]() for layer in layers}

        def take(layer: int, state_BTD: Tensor) -> None:
            if layer in states:
                states[layer] += state_BTD

        cache = self._cache
        for read in self._groups(num_rows - num_known, longest):
            cache.first_row, cache.num_rows, cache.length = read.start, read.stop - read.start, 0
            self._count_only(is_token_BT[read])
            position_BT = (is_token_BT[read].cumsum(dim=1) - 1).clamp(min=0)
            last += self._pass(self._prompt_BT[read], position_BT, self._counts_BS, take)[:, -1]
        cache.first_row, cache.num_rows, cache.length = 0, num_rows, longest
        for row, known in enumerate(self._known, start=num_rows - num_known):
            if isinstance(known, int):
                own = Prefix.of_row(self._cache, known, longest, last[known], _row_of(states, known))
            else:
                own = known
            self._cache.fill_row(row, own.keys_LNSH, own.values_LNSH)
            last.append(own.last_D)
            for layer, found in states.items():
                found.append(_aligned(own.states[layer], longest))
        self._count_only(is_token_BT)
        return torch.stack(last)[:, None], {layer: torch.stack(found) for layer, found in states.items()}

    def prompt_read(self, row: int, last_D: Tensor, states: Mapping[int, Tensor]) -> Prefix:
        """Return a row's prompt as it was read, in the cache's own memory: right behind :meth:`read_prompts`.

        Args:
            row: of the batch.
            last_D: the final hidden state of its last position.
            states: of the layers that were wanted, (T, D) each.
        """
        length = int(self._length_B[row])
        own = {layer: state_TD[-length:] for layer, state_TD in states.items()}
        return Prefix.of_row(self._cache, row, length, last_D, own)

    def read(self, token_ids_BT: Tensor) -> Tensor:
        """Return the final hidden states (B, T, D) of tokens after those read so far; all stay in the cache.

        Args:
            token_ids_BT: int64 on the CPU; the states are on the decoder's device.
        """
        num_rows, num_new = token_ids_BT.shape
        if self._counts_BS is not None:
            new_BT = self._counts_BS.new_ones(num_rows, num_new)
            self._counts_BS = torch.cat((self._counts_BS, new_BT), dim=1)
        position_BT = self._length_B[:, None] + torch.arange(num_new)
        state_BTD = self._pass(token_ids_BT, position_BT, self._counts_BS)
        self._length_B = self._length_B + num_new
        self.num_attended += num_rows * self._cache.length
        return state_BTD

    def take_back(self, num_positions: Sequence[int]) -> None:
        """Forget the last positions of the pass before: of each row so many, none to all that it has read there."""
        common, length = min(num_positions), self._cache.length - min(num_positions)
        self._cache.truncate(length)
        self._length_B = self._length_B - torch.tensor(num_positions)
        counts_BS = None if self._counts_BS is None else self._counts_BS[:, :length]
        if any(num > common for num in num_positions):
            end_B = torch.tensor([length - (num - common) for num in num_positions])
            is_kept_BS = torch.arange(length) < end_B[:, None]
            counts_BS = is_kept_BS if counts_BS is None else counts_BS & is_kept_BS
        self._counts_BS = counts_BS

    def keep(self, rows: Sequence[int]) -> None:
        """Keep only these rows, ascending; they become rows 0, 1, ..."""
        self._cache.keep_rows(rows)
        self._keep_lengths(rows)

    def _groups(self, num_rows: int, length: int) -> Iterator[slice]:
        """Yield the prompts that are read in one pass."""
        size = max(1, _MOST_POSITIONS // length if self._device.type == "cpu" else num_rows)
        for start in range(0, num_rows, size):
            yield slice(start, min(start + size, num_rows))

    def _new_cache(self, num_rows: int, capacity: int) -> KvCache:
        return self._decoder.new_cache(num_rows, capacity)

    def _keep_lengths(self, rows: Sequence[int]) -> None:
        self._length_B = self._length_B[list(rows)]
        if self._counts_BS is not None:
            self._count_only(self._counts_BS[list(rows)])

    def _pass(
        self, token_ids_BT: Tensor, position_BT: Tensor, counts_BS: Tensor | None, on_layer: OnLayer | None = None
    ) -> Tensor:
        attend_BTS = None
        if counts_BS is not None:
            num_new, num_all = token_ids_BT.shape[1], counts_BS.shape[1]
            place_S = torch.arange(num_all, device=self._device)
            attend_BTS = causal_mask(num_new, num_all, self._device) & counts_BS.to(self._device)[:, None]
            attend_BTS |= place_S == place_S[num_all - num_new :, None]
        self.num_passes += 1
        state_BTD: Tensor = self._decoder(
            token_ids_BT.to(self._device),
            positions_BT=None if attend_BTS is None else position_BT.to(self._device),
            attend_BTS=attend_BTS,
            cache=self._cache,
            on_layer=on_layer,
        )
        return state_BTD

    def _count_only(self, counts_BS: Tensor) -> None:
        self._counts_BS = None if bool(counts_BS.all()) else counts_BS


def _row_of(states: Mapping[int, Sequence[Tensor]], row: int) -> dict[int, Tensor]:
    return {layer: found[row] for layer, found in states.items()}


def _aligned(state_SD: Tensor, length: int) -> Tensor:
    """Return states (T, D) that end as these do, with zeros in front."""
    return torch.cat((state_SD.new_zeros(length - len(state_SD), state_SD.shape[1]), state_SD))
