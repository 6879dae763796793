"""Prompts that have been read: what a decoder needs to go on behind them, kept for whoever reads the same ones again.

The same film is read by many: several reports of it, its findings, the likelihood of sentences, what a sentence depends
on. All of them read ``I_s image I_E T_s``, which takes longer than what follows. So whoever reads a prompt to its end
leaves its keys and values in the :class:`PrefixStore`, and looks there first. A prompt is known by its token ids and by
the decoder that read it, which stands for weights, precision and adapters: a quantised decoder is another one. Its
weights must not change while a store knows it.

Only memory is used. Keys and values are thousands of times the size of the codes they come from, and whoever has them
has the film.

Shape letters: L layers, B rows, N heads, S positions of a prefix, T new positions, H head size, D hidden.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Self

import torch
from torch import Tensor

from chexmix_cli.core.models.decoder import Decoder, KvCache


@dataclass(frozen=True, eq=False, slots=True)
class Prefix:
    """Token ids from the start of a sequence, as a decoder has read them.

    Attributes:
        keys_LNSH, values_LNSH: of their positions.
        last_D: final hidden state of the last one.
        states: hidden states (S, D) of some layers: 0 the token embeddings, then each block, the last one normed.
    """

    keys_LNSH: Tensor
    values_LNSH: Tensor
    last_D: Tensor
    states: Mapping[int, Tensor] = field(default_factory=dict)

    @property
    def length(self) -> int:
        """Return S."""
        return self.keys_LNSH.shape[2]

    @property
    def num_bytes(self) -> int:
        """Return the memory that it takes by itself."""
        return sum(tensor.nbytes for tensor in (self.keys_LNSH, self.values_LNSH, self.last_D, *self.states.values()))

    def copy(self) -> Self:
        """Return the same in memory of its own, and no more than it needs."""
        keys_LNSH, values_LNSH, last_D = (one.clone() for one in (self.keys_LNSH, self.values_LNSH, self.last_D))
        return type(self)(keys_LNSH, values_LNSH, last_D, {layer: one.clone() for layer, one in self.states.items()})

    @classmethod
    def of_row(cls, cache: KvCache, row: int, length: int, last_D: Tensor, states: Mapping[int, Tensor]) -> Self:
        """Return what a row of a cache holds in its last ``length`` positions, in the cache's own memory."""
        used = slice(cache.length - length, cache.length)
        return cls(cache.keys_LBNSH[:, row, :, used], cache.values_LBNSH[:, row, :, used], last_D, states)


class PrefixStore:
    """Prompts read by decoders, up to a budget; the one that was not used for longest goes first.

    Args:
        num_bytes: the budget; 0 keeps nothing.

    Attributes:
        num_bytes: as given.
        held_bytes: in use.
    """

    def __init__(self, num_bytes: int) -> None:
        self.num_bytes, self.held_bytes = num_bytes, 0
        self._prefixes: OrderedDict[tuple[Decoder, tuple[int, ...]], Prefix] = OrderedDict()

    def __len__(self) -> int:
        return len(self._prefixes)

    def find(self, decoder: Decoder, prompt: Sequence[int], layers: Collection[int] = ()) -> Prefix | None:
        """Return a prompt as this decoder has read it, with the states of these layers; None: it has to be read."""
        if not self.num_bytes:
            return None
        key = (decoder, tuple(prompt))
        found = self._prefixes.get(key)
        if found is None or not found.states.keys() >= set(layers):
            return None
        self._prefixes.move_to_end(key)
        return found

    def forget(self) -> None:
        """Hold nothing any more.

        What follows a prefix has the last digits of the pass that read it, and those depend on the prompts beside it.
        So whoever promises that a batch gives the same bytes, whatever was done before it, forgets in front of each.
        """
        self._prefixes.clear()
        self.held_bytes = 0

    def keep(self, decoder: Decoder, prompt: Sequence[int], prefix: Prefix) -> Prefix:
        """Keep a copy of a prompt that was read, with the states that are known of it already.

        Returns:
            The copy, so that the memory it was read into can be freed; or, if it is not kept, what was given.
        """
        if not self.num_bytes:
            return prefix
        key = (decoder, tuple(prompt))
        if (before := self._prefixes.pop(key, None)) is not None:
            self.held_bytes -= before.num_bytes
            prefix = replace(prefix, states={**before.states, **prefix.states})
        if prefix.num_bytes > self.num_bytes:
            return prefix
        while self.held_bytes + prefix.num_bytes > self.num_bytes:
            _, oldest = self._prefixes.popitem(last=False)
            self.held_bytes -= oldest.num_bytes
        kept = self._prefixes[key] = prefix.copy()
        self.held_bytes += kept.num_bytes
        return kept


#: Keeps nothing: for decoders whose weights change, and for films that are read once.
NO_PREFIXES = PrefixStore(0)


@torch.inference_mode()
def read_prefix(decoder: Decoder, prompt: Sequence[int], store: PrefixStore) -> Prefix:
    """Return a prompt as a decoder reads it: from the store, or read now and left there.

    Raises:
        ShapeError: if it is longer than the decoder's positions.
    """
    if (found := store.find(decoder, prompt)) is not None:
        return found
    cache = decoder.new_cache(1, len(prompt))
    state_1TD = decoder(torch.tensor([list(prompt)], device=decoder.embedding.weight.device), cache=cache)
    return store.keep(decoder, prompt, Prefix.of_row(cache, 0, len(prompt), state_1TD[0, -1], {}))


@torch.inference_mode()
def states_behind(decoder: Decoder, prefix: Prefix | None, rest_BT: Tensor, *, length: int | None = None) -> Tensor:
    """Return the final hidden states (B, T, D) of what follows one prefix, or none, read in one pass.

    Args:
        decoder: that has read the prefix.
        prefix: in front of all; None: they are whole sequences.
        rest_BT: token ids that follow it, on the decoder's device; what fills short ones is behind them, where no
            position before can see it.
        length: how much of the prefix counts, from its start; default: all of it. An image that is seen whole is not
            to be cut.

    Raises:
        ShapeError: if a sequence is longer than the decoder's positions.
    """
    cache = None if prefix is None else _SharedCache(prefix, len(rest_BT), length or prefix.length)
    state_BTD: Tensor = decoder(rest_BT, cache=cache)
    return state_BTD


class _SharedCache(KvCache):
    """A cache for one pass: all rows begin with one prefix, and what they read is forgotten layer by layer.

    Args:
        prefix: that has been read.
        num_rows: of the pass.
        length: positions of the prefix that count.
    """

    def __init__(self, prefix: Prefix, num_rows: int, length: int) -> None:
        self.keys_LBNSH = prefix.keys_LNSH[:, None, :, :length]
        self.values_LBNSH = prefix.values_LNSH[:, None, :, :length]
        self.num_rows, self.length, self.capacity = num_rows, length, length
        self._start_B: Tensor | None = None

    def _room(self, layer: int, rows: int, end: int) -> tuple[Tensor, Tensor]:
        """Return the prefix's keys and values for every row, with room for new ones behind them up to ``end``."""
        found = []
        for shared_1NSH in (self.keys_LBNSH[layer], self.values_LBNSH[layer]):
            _, num_heads, length, size = shared_1NSH.shape
            both_BNSH = shared_1NSH.new_empty(rows, num_heads, end, size)
            both_BNSH[:, :, :length] = shared_1NSH
            found.append(both_BNSH)
        return found[0], found[1]


@dataclass(frozen=True, slots=True)
class PromptPlan:
    """Which prompts of a batch are read, and where the others come from.

    Attributes:
        order: the prompts' indices, row by row: first those that are read, then the others.
        known: of each of the others: the prompt as read before, or the row that reads the same one.
    """

    order: list[int]
    known: list[Prefix | int]

    @classmethod
    def make(
        cls, decoder: Decoder, prompts: Sequence[Sequence[int]], layers: Collection[int], store: PrefixStore
    ) -> Self:
        """Return the plan of some prompts, whose states of these layers are wanted."""
        row_of: dict[tuple[int, ...], int] = {}
        read: list[int] = []
        others: list[int] = []
        known: list[Prefix | int] = []
        found: Prefix | int | None
        for index, prompt in enumerate(prompts):
            key = tuple(prompt)
            found = row_of[key] if key in row_of else store.find(decoder, key, layers)
            if found is None:
                row_of[key] = len(read)
                read.append(index)
            else:
                others.append(index)
                known.append(found)
        return cls(read + others, known)

    @property
    def num_read(self) -> int:
        """Return how many prompts are read: the first rows."""
        return len(self.order) - len(self.known)
