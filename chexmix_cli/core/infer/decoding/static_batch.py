"""Decoding with fixed shapes, for a GPU: a pass is recorded once as a CUDA graph and played back from then on.

A pass over a few positions is hundreds of small kernels, and starting them one by one takes longer than running them. A
graph starts them all at once, but plays back the very same addresses and shapes. So here the key-value cache is as long
as it will ever be and every pass attends to all of it under a mask, rows that are done keep their index, and what
changes from pass to pass is written into one buffer that stays, by one copy from pinned memory. Cache and graphs are
kept for later calls that fit them (:class:`Recordings`). The results are those of :class:`Batch`.

Shape letters: B rows still decoding, P rows of the cache, T positions of a pass, S positions of the cache,
D hidden, N heads, H head size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from chexmix_cli.core.errors import ShapeError
from chexmix_cli.core.infer.decoding.batch import Batch
from chexmix_cli.core.infer.decoding.prefixes import Prefix
from chexmix_cli.core.kernels.rotary_cache.op import rotate_and_cache
from chexmix_cli.core.models.attention import causal_mask
from chexmix_cli.core.models.decoder import Decoder, KvCache, OnLayer

#: Makes of a pass over fixed buffers something that can be called again and again.
Capture = Callable[[Callable[[], Tensor]], Callable[[], Tensor]]

#: A cache has a multiple of so many positions, so that calls of nearly the same length share one.
_STEP = 128
#: A cache is used for a call that needs no less than this share of its rows, and of its positions: masked places are
#: computed and read all the same.
_LEAST_SHARE = 0.5


class StaticCache(KvCache):
    """A key-value cache whose passes read and write all of it, where ``place_T`` says which positions are new.

    Attributes:
        place_T: positions that the next pass writes to, int64; None: after those in use, as in any cache.
    """

    def __init__(self, like: KvCache) -> None:
        # Zeros: what is masked counts nothing, but nothing times not-a-number is not a number.
        self.keys_LBNSH, self.values_LBNSH = torch.zeros_like(like.keys_LBNSH), torch.zeros_like(like.values_LBNSH)
        self.capacity, self.length = like.capacity, like.length
        self.first_row, self.num_rows = 0, like.num_rows
        self.place_T: Tensor | None = None
        self._start_B: Tensor | None = None

    @property
    def num_places(self) -> tuple[int, int]:
        """Return how many rows and positions there are, in use or not: those that a recorded pass computes."""
        return self.keys_LBNSH.shape[1], self.keys_LBNSH.shape[3]

    @property
    def writes_behind(self) -> bool:
        """Return whether new positions are written right behind those in use."""
        return self.place_T is None

    def begin(self, num_rows: int, capacity: int) -> None:
        """Forget all positions, and use some of the rows and positions."""
        self.num_rows, self.capacity, self.length = num_rows, capacity, 0

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


class _Inputs:
    """What changes from pass to pass, in one piece of memory: on the device, or where it is filled in for it.

    Attributes:
        buffer: all of it, uint8.
        place_T: positions of the cache that the pass writes to, int64.
        token_ids_PT, position_PT: what it reads, and where in its sequence, int64.
        row_P: rows of the cache that still decode, the first ones of these, int64.
        attend_PTS: what each position attends to.
    """

    def __init__(self, cache: StaticCache, width: int, **memory: object) -> None:
        num_rows, num_places = cache.num_places
        shapes = ((width,), (num_rows, width), (num_rows, width), (num_rows,))
        sizes = [math.prod(shape) for shape in shapes]
        num_bytes = 8 * sum(sizes)
        self.buffer = torch.zeros(num_bytes + num_rows * width * num_places, dtype=torch.uint8, **memory)  # type: ignore[call-overload]
        parts = self.buffer[:num_bytes].view(torch.int64).split(sizes)
        self.place_T, self.token_ids_PT, self.position_PT, self.row_P = (
            part.view(shape) for part, shape in zip(parts, shapes, strict=True)
        )
        self.attend_PTS = self.buffer[num_bytes:].view(torch.bool).view(num_rows, width, num_places)


class _Pass:
    """A pass of one width: its inputs, and what plays it back."""

    def __init__(self, decoder: Decoder, cache: StaticCache, width: int, record: Capture) -> None:
        device = decoder.embedding.weight.device
        self._decoder, self._cache, self._record = decoder, cache, record
        self._device = _Inputs(cache, width, device=device)
        #: To be filled in before :meth:`run`, on the CPU.
        self.inputs = _Inputs(cache, width, pin_memory=device.type == "cuda")
        self._play: Callable[[], Tensor] | None = None

    def run(self, num_rows: int) -> Tensor:
        """Return the final hidden states (B, T, D) of the first rows of ``row_P``; recorded when called first.

        Whoever calls it waits for what it chooses from them before it fills in the next inputs.
        """
        self._device.buffer.copy_(self.inputs.buffer, non_blocking=True)
        if self._play is None:
            self._play = self._record(self._compute)
        # A copy: the next pass writes over what was played back.
        return self._play().index_select(0, self._device.row_P[:num_rows])

    def _compute(self) -> Tensor:
        cache, start = self._cache, self._cache.length
        inputs, cache.place_T = self._device, self._device.place_T
        try:
            state_PTD: Tensor = self._decoder(
                inputs.token_ids_PT, positions_BT=inputs.position_PT, attend_BTS=inputs.attend_PTS, cache=cache
            )
        finally:
            # The decoder counts on; recording computes more than once, playing back not at all.
            cache.place_T, cache.length = None, start
        return state_PTD


class Recordings:
    """The cache and the recorded passes of an engine's last call, for the next one that fits: recording is slow.

    Args:
        record: how passes are recorded; default: as CUDA graphs. On a CPU, where there is nothing to gain, a test
            gives ``lambda compute: compute``.
    """

    def __init__(self, record: Capture | None = None) -> None:
        self._record = record
        self._cache: StaticCache | None = None
        self._passes: dict[int, _Pass] = {}

    def begin(self, decoder: Decoder, num_rows: int, capacity: int) -> StaticCache:
        """Return an empty cache for so many rows and positions: the one that is there, if it fits."""
        needed = (num_rows, -(-capacity // _STEP) * _STEP)
        if self._cache is None or not _fits(needed, self._cache.num_places):
            # Before the new ones are made: there may be no room for both.
            self._cache, self._passes = None, {}
            self._cache = StaticCache(decoder.new_cache(*needed))
        self._cache.begin(num_rows, capacity)
        return self._cache

    def of_width(self, decoder: Decoder, width: int) -> _Pass:
        """Return the pass over so many positions."""
        assert self._cache is not None, "begin() makes it"
        if width not in self._passes:
            record = self._record = self._record or CudaGraphs(decoder.embedding.weight.device)
            self._passes[width] = _Pass(decoder, self._cache, width, record)
        return self._passes[width]


def _fits(needed: tuple[int, int], there: tuple[int, int]) -> bool:
    return all(_LEAST_SHARE * most <= least <= most for least, most in zip(needed, there, strict=True))


class StaticBatch(Batch):
    """A :class:`Batch` whose passes after the prompts have fixed shapes.

    Args:
        recordings: of earlier calls with the same decoder.
        decoder, prompts, max_new_tokens, pad, num_spare, known: as :class:`Batch`.
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
        recordings: Recordings,
    ) -> None:
        self._recordings = recordings
        super().__init__(decoder, prompts, max_new_tokens=max_new_tokens, pad=pad, num_spare=num_spare, known=known)
        #: Place of each row that is left.
        self._places = list(range(len(prompts)))

    def _new_cache(self, num_rows: int, capacity: int) -> KvCache:
        self._static = self._recordings.begin(self._decoder, num_rows, capacity)
        return self._static

    def keep(self, rows: Sequence[int]) -> None:
        """Keep only these rows, ascending; they become rows 0, 1, ..., and stay where they are in the cache."""
        self._places = [self._places[row] for row in rows]
        self._keep_lengths(rows)

    def _pass(
        self, token_ids_BT: Tensor, position_BT: Tensor, counts_BS: Tensor | None, on_layer: OnLayer | None = None
    ) -> Tensor:
        cache, width = self._static, token_ids_BT.shape[1]
        if cache.length == 0:  # the prompts: of any length, and read once
            return super()._pass(token_ids_BT, position_BT, counts_BS, on_layer)
        start, end = cache.length, cache.length + width
        if end > cache.capacity:
            raise ShapeError(f"{end} positions in a cache of {cache.capacity}", where="StaticBatch")
        made = self._recordings.of_width(self._decoder, width)
        inputs, places = made.inputs, self._places
        inputs.place_T.copy_(torch.arange(start, end))
        inputs.row_P[: len(places)] = torch.tensor(places)
        inputs.token_ids_PT[places] = token_ids_BT
        inputs.position_PT[places] = position_BT
        causal_TS = causal_mask(width, end, torch.device("cpu"))
        own_TS = torch.zeros_like(causal_TS)
        own_TS[:, start:] = torch.eye(width, dtype=torch.bool)
        # A row that is done attends to itself: a row of the mask that is all False has no softmax.
        inputs.attend_PTS.zero_()
        inputs.attend_PTS[:, :, :end] = own_TS
        inputs.attend_PTS[places, :, :end] = (
            causal_TS if counts_BS is None else (causal_TS & counts_BS[:, None]) | own_TS
        )
        state_BTD = made.run(len(places))
        cache.length = end
        self.num_passes += 1
        return state_BTD


class CudaGraphs:
    """Records passes as CUDA graphs, which share the memory they compute in: one is played back at a time.

    Args:
        device: whose passes they are.
    """

    def __init__(self, device: torch.device) -> None:
        self._device, self._pool = device, torch.cuda.graph_pool_handle()

    def __call__(self, compute: Callable[[], Tensor]) -> Callable[[], Tensor]:
        """Return a function that plays back what ``compute`` does on the GPU, and gives its result.

        Source: torch's notes on CUDA graphs: warmed up on another stream first, so that libraries have set themselves
        up. All of it on the pass's own device: on another, which may be the current one, the graph would be empty.
        """
        with torch.cuda.device(self._device):
            aside = torch.cuda.Stream()
            aside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(aside):
                compute()
            torch.cuda.current_stream().wait_stream(aside)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self._pool):
                result = compute()

        def play() -> Tensor:
            graph.replay()
            return result

        return play
