"""Decoding with fixed shapes, for a GPU: a pass is recorded once as a CUDA graph and played back from then on.

A pass over a few positions is hundreds of small kernels, and starting them one by one takes longer than running them. A
graph starts them all at once, but plays back the very same addresses and shapes. So here the key-value cache is as long
as it will ever be and every pass attends to all of it under a mask, rows that are done keep their index, and what
changes from pass to pass is written into buffers that stay. The results are those of :class:`Batch`.

Shape letters: B rows still decoding, P rows at the start, T positions of a pass, S positions of the cache,
D hidden, N heads, H head size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from chexmix_cli.core.errors import ShapeError
from chexmix_cli.core.infer.decoding.batch import Batch
from chexmix_cli.core.kernels.rotary_cache.op import rotate_and_cache
from chexmix_cli.core.models.attention import causal_mask
from chexmix_cli.core.models.decoder import Decoder, KvCache

#: Makes of a pass over fixed buffers something that can be called again and again.
Capture = Callable[[Callable[[], Tensor]], Callable[[], Tensor]]


class StaticCache(KvCache):
    """A key-value cache whose passes read and write all of it, where ``place_T`` says which positions are new.

    Attributes:
        place_T: positions that the next pass writes to, int64; None: after those in use, as in any cache.
    """

    def __init__(self, like: KvCache) -> None:
        # Zeros: what is masked counts nothing, but nothing times not-a-number is not a number.
        self.keys_LBNSH, self.values_LBNSH = torch.zeros_like(like.keys_LBNSH), torch.zeros_like(like.values_LBNSH)
        self.capacity, self.num_rows, self.length = like.capacity, like.num_rows, like.length
        self.place_T: Tensor | None = None
        self._start_B: Tensor | None = None

    def append(self, layer: int, keys_BNTH: Tensor, values_BNTH: Tensor) -> tuple[Tensor, Tensor]:
        """Write the new keys and values to their slots and return the whole cache, each (B, N, S, H)."""
        if self.place_T is None:
            return super().append(layer, keys_BNTH, values_BNTH)
        keys_BNSH, values_BNSH = self.keys_LBNSH[layer], self.values_LBNSH[layer]
        keys_BNSH.index_copy_(2, self.place_T, keys_BNTH)
        values_BNSH.index_copy_(2, self.place_T, values_BNTH)
        return keys_BNSH, values_BNSH

    def append_rotated(
        self, layer: int, fused_BTX: Tensor, rotary: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Write keys and values out of a block's first product, as :meth:`append`; return rotated queries, and all."""
        if self.place_T is None:
            return super().append_rotated(layer, fused_BTX, rotary)
        keys_BNSH, values_BNSH = self.keys_LBNSH[layer], self.values_LBNSH[layer]
        start_B = self.place_T[:1].repeat(len(fused_BTX))
        q_BNTH = rotate_and_cache(fused_BTX, *rotary, keys_BNSH, values_BNSH, start_B)
        return q_BNTH, keys_BNSH, values_BNSH


class _Pass:
    """A pass of one width: its buffers, and what plays it back."""

    def __init__(self, decoder: Decoder, cache: StaticCache, width: int, record: Capture) -> None:
        device, num_places = decoder.embedding.weight.device, cache.num_rows
        self._decoder, self._cache, self._record = decoder, cache, record
        self.token_ids_PT = torch.zeros(num_places, width, dtype=torch.int64, device=device)
        self.position_PT = torch.zeros_like(self.token_ids_PT)
        self.place_T = torch.zeros(width, dtype=torch.int64, device=device)
        self.attend_PTS = torch.zeros(num_places, width, cache.capacity, dtype=torch.bool, device=device)
        self._play: Callable[[], Tensor] | None = None

    def run(self) -> Tensor:
        """Return the final hidden states (P, T, D) of what the buffers hold; recorded when called first."""
        if self._play is None:
            self._play = self._record(self._compute)
        return self._play()

    def _compute(self) -> Tensor:
        cache, start = self._cache, self._cache.length
        cache.place_T = self.place_T
        try:
            state_PTD: Tensor = self._decoder(
                self.token_ids_PT, positions_BT=self.position_PT, attend_BTS=self.attend_PTS, cache=cache
            )
        finally:
            # The decoder counts on; recording computes more than once, playing back not at all.
            cache.place_T, cache.length = None, start
        return state_PTD


class StaticBatch(Batch):
    """A :class:`Batch` whose passes after the prompts have fixed shapes.

    Args:
        record: how passes are recorded; default: as CUDA graphs. On a CPU, where there is nothing to gain, a test
            gives ``lambda compute: compute``.
        decoder, prompts, max_new_tokens, pad, num_spare: as :class:`Batch`.
    """

    def __init__(
        self,
        decoder: Decoder,
        prompts: Sequence[Sequence[int]],
        *,
        max_new_tokens: int,
        pad: int,
        num_spare: int = 0,
        record: Capture | None = None,
    ) -> None:
        super().__init__(decoder, prompts, max_new_tokens=max_new_tokens, pad=pad, num_spare=num_spare)
        self._static = self._cache = StaticCache(self._cache)
        self._record = record or cuda_graph
        #: Place of each row that is left.
        self._places = torch.arange(len(prompts), device=decoder.embedding.weight.device)
        self._passes: dict[int, _Pass] = {}

    def keep(self, rows: Sequence[int]) -> None:
        """Keep only these rows, ascending; they become rows 0, 1, ..., and stay where they are in the cache."""
        kept = list(rows)
        self._places, self._length_B = self._places[kept], self._length_B[kept]
        if self._counts_BS is not None:
            self._count_only(self._counts_BS[kept])

    def _pass(self, token_ids_BT: Tensor, position_BT: Tensor, counts_BS: Tensor | None) -> Tensor:
        cache, width = self._static, token_ids_BT.shape[1]
        if cache.length == 0:  # the prompts: of any length, and read once
            return super()._pass(token_ids_BT, position_BT, counts_BS)
        start, end = cache.length, cache.length + width
        if end > cache.capacity:
            raise ShapeError(f"{end} positions in a cache of {cache.capacity}", where="StaticBatch")
        if width not in self._passes:
            self._passes[width] = _Pass(self._decoder, cache, width, self._record)
        made, places = self._passes[width], self._places
        made.place_T.copy_(torch.arange(start, end, device=places.device))
        made.token_ids_PT[places] = token_ids_BT
        made.position_PT[places] = position_BT
        causal_TS = causal_mask(width, end, places.device)
        own_TS = torch.zeros_like(causal_TS)
        own_TS[:, start:] = torch.eye(width, dtype=torch.bool, device=places.device)
        # A row that is done attends to itself: a row of the mask that is all False has no softmax.
        made.attend_PTS.zero_()
        made.attend_PTS[:, :, :end] = own_TS
        made.attend_PTS[places, :, :end] = causal_TS if counts_BS is None else (causal_TS & counts_BS[:, None]) | own_TS
        state_PTD = made.run()
        cache.length = end
        self.num_passes += 1
        # A copy: the next pass writes over what was played back.
        return state_PTD[places]


def cuda_graph(compute: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """Return a function that plays back what ``compute`` does on the GPU, and gives its result.

    Source: torch's notes on CUDA graphs: warmed up on another stream first, so that libraries have set themselves up.
    """
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        compute()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = compute()

    def play() -> Tensor:
        graph.replay()
        return result

    return play
