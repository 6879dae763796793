"""The CheXmix decoder: Phi's parallel block with fused projections.

Shape letters: B batch, T new positions, S positions attended to (cached and new), D hidden, N heads, H head size,
R rotary half, F feed-forward, V joint vocabulary.

A Phi block is ``x + attention(ln(x)) + mlp(ln(x))``. Both branches read the same norm and add into the same residual,
so the block is two matrix products: ``ln(x) -> [q, k, v, fc1]`` and ``[attention, gelu(fc1)] -> x``. Which checkpoint
key is which slice is a matter of loading (``core/weights/formats/keys.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from chexmix_cli.core.errors import ShapeError
from chexmix_cli.core.kernels.backend import uses_triton
from chexmix_cli.core.kernels.block_branches import native as native_branches
from chexmix_cli.core.kernels.decode_attention.op import attend as attend_to_cache
from chexmix_cli.core.kernels.rotary_cache.op import rotate_and_cache
from chexmix_cli.core.models.attention import AttentionPlan, ImageSpan, causal_mask
from chexmix_cli.core.models.linear import Linear
from chexmix_cli.core.models.meta import on_meta_device
from chexmix_cli.core.models.quantized import QuantizedLinear, quantized_layer, quantized_state
from chexmix_cli.core.settings.inference import Quantize
from chexmix_cli.core.settings.model import DecoderSettings

_ROPE_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}

#: Is told a layer's number and its hidden states, (B, T, D), as a pass comes to them.
OnLayer = Callable[[int, Tensor], None]


class KvCache:
    """Keys and values of the positions seen so far, in one buffer a layer.

    Args:
        settings: the decoder's shape.
        batch_size: rows.
        capacity: most positions held.
        dtype, device: as the decoder's activations.

    Attributes:
        first_row, num_rows: rows in use, or those that are read for now.
        length: positions in use, the same for every row.
    """

    def __init__(
        self, settings: DecoderSettings, *, batch_size: int, capacity: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        shape = (settings.num_layers, batch_size, settings.num_heads, capacity, settings.head_size)
        self.keys_LBNSH = torch.empty(shape, dtype=dtype, device=device)
        self.values_LBNSH = torch.empty(shape, dtype=dtype, device=device)
        self.capacity = capacity
        self.first_row, self.num_rows = 0, batch_size
        self.length = 0
        #: ``length`` once a row, on the device: made by the first layer of a pass, for all.
        self._start_B: Tensor | None = None

    def append(self, layer: int, keys_BNTH: Tensor, values_BNTH: Tensor) -> tuple[Tensor, Tensor]:
        """Write the new keys and values after the first ``length`` and return all, each (B, N, S, H).

        Raises:
            ShapeError: if they are of other rows than the cache holds, or do not fit.
        """
        end = self.length + keys_BNTH.shape[2]
        keys_BNSH, values_BNSH = self._room(layer, keys_BNTH.shape[0], end)
        keys_BNSH[:, :, self.length : end] = keys_BNTH
        values_BNSH[:, :, self.length : end] = values_BNTH
        return keys_BNSH[:, :, :end], values_BNSH[:, :, :end]

    def append_rotated(
        self, layer: int, fused_BTX: Tensor, rotary: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Write keys and values out of a block's first product, as :meth:`append`; return rotated queries, and all."""
        rows, end = fused_BTX.shape[0], self.length + fused_BTX.shape[1]
        keys_BNSH, values_BNSH = self._room(layer, rows, end)
        if layer == 0 or self._start_B is None:
            self._start_B = torch.full((rows,), self.length, device=fused_BTX.device)
        q_BNTH = rotate_and_cache(fused_BTX, *rotary, keys_BNSH, values_BNSH, self._start_B)
        return q_BNTH, keys_BNSH[:, :, :end], values_BNSH[:, :, :end]

    @property
    def writes_behind(self) -> bool:
        """Return whether new positions are written right behind the first ``length``, and no other is read."""
        return True

    def append_and_mix(
        self, layer: int, fused_BTX: Tensor, rotary: tuple[Tensor, Tensor], attend_BTS: Tensor | None
    ) -> Tensor:
        """Write keys and values, as :meth:`append_rotated`; return both branches of the block, (B, T, D + F)."""
        keys_BNSH, values_BNSH = self._room(layer, fused_BTX.shape[0], self.length + fused_BTX.shape[1])
        return native_branches.branches(fused_BTX, *rotary, keys_BNSH, values_BNSH, attend_BTS, self.length)

    def _room(self, layer: int, rows: int, end: int) -> tuple[Tensor, Tensor]:
        """Return a layer's buffers of the rows in use, each (B, N, S, H), if so many rows up to ``end`` are theirs."""
        if rows != self.num_rows:
            raise ShapeError(f"{rows} rows for a cache of {self.num_rows}", where="KvCache")
        if end > self.capacity:
            raise ShapeError(f"{end} positions in a cache of {self.capacity}", where="KvCache")
        used = slice(self.first_row, self.first_row + rows)
        return self.keys_LBNSH[layer, used], self.values_LBNSH[layer, used]

    def fill_row(self, row: int, keys_LNSH: Tensor, values_LNSH: Tensor) -> None:
        """Make these the last positions in use of a row; those in front of them become zeros, to be masked."""
        first = self.length - keys_LNSH.shape[2]
        for buffer_LBNSH, own_LNSH in ((self.keys_LBNSH, keys_LNSH), (self.values_LBNSH, values_LNSH)):
            # A position that is masked counts nothing, but nothing times not-a-number is not a number.
            buffer_LBNSH[:, row, :, :first] = 0
            buffer_LBNSH[:, row, :, first : self.length] = own_LNSH

    def truncate(self, length: int) -> None:
        """Forget every position from ``length`` on."""
        self.length = min(self.length, length)

    def keep_rows(self, rows: Sequence[int]) -> None:
        """Keep these rows, ascending, as the first ones and forget the others."""
        if any(after <= before for before, after in pairwise(rows)) or any(
            not 0 <= row < self.num_rows for row in rows
        ):
            raise ShapeError(f"rows {list(rows)}", where="KvCache", expected=f"ascending, below {self.num_rows}")
        for buffer_LBNSH in (self.keys_LBNSH, self.values_LBNSH):
            for target, source in enumerate(rows):
                if target != source:  # ascending: a row moves forward, onto one that is already moved or forgotten
                    buffer_LBNSH[:, target, :, : self.length] = buffer_LBNSH[:, source, :, : self.length]
        self.num_rows = len(rows)


class Block(nn.Module):
    """One parallel block; ``forward`` maps (B, T, D) to (B, T, D)."""

    def __init__(self, settings: DecoderSettings) -> None:
        super().__init__()
        hidden, mlp = settings.hidden_size, settings.mlp_size
        self.head_size = settings.head_size
        self.split_sizes = (2 * hidden, hidden, mlp)
        self.norm = nn.LayerNorm(hidden, eps=settings.norm_eps)
        self.input_proj: Linear | QuantizedLinear = Linear(hidden, 3 * hidden + mlp)
        self.output_proj: Linear | QuantizedLinear = Linear(hidden + mlp, hidden, bias=False)
        # Two biases, not their sum: a checkpoint goes out with the very numbers it came in with.
        self.attention_bias = nn.Parameter(torch.zeros(hidden))
        self.mlp_bias = nn.Parameter(torch.zeros(hidden))
        self.dropout = nn.Dropout(settings.residual_dropout)
        # Low-rank updates in training (core/models/lora.py); they map (input, output) of a product to its new output.
        self.input_adapter: nn.Module | None = None
        self.output_adapter: nn.Module | None = None

    def forward(
        self,
        x_BTD: Tensor,
        rotary: tuple[Tensor, Tensor],
        attend_BTS: Tensor | AttentionPlan | None,
        cache: KvCache | None,
        layer: int,
    ) -> Tensor:
        normed_BTD = self.norm(x_BTD)
        fused_BTX = self.input_proj(normed_BTD)
        if self.input_adapter is not None:
            fused_BTX = self.input_adapter(normed_BTD, fused_BTX)
        branches_BTX = self._compiled_branches(fused_BTX, rotary, attend_BTS, cache, layer)
        if branches_BTX is None:
            # Here and not in a method: torch.compile makes more graphs of a call that it cannot compile whole.
            qk_BTX, v_BTD, mlp_BTF = fused_BTX.split(self.split_sizes, dim=-1)
            reads_cache = cache is not None and not torch.is_grad_enabled()
            if reads_cache and uses_triton(x_BTD.device):
                assert cache is not None
                q_BNTH, k_BNSH, v_BNSH = cache.append_rotated(layer, fused_BTX, rotary)
            else:
                q_BNTH, k_BNSH = rotate(self._heads(qk_BTX), *rotary).chunk(2, dim=1)
                v_BNSH = self._heads(v_BTD)
                if cache is not None:
                    k_BNSH, v_BNSH = cache.append(layer, k_BNSH, v_BNSH)
            if isinstance(attend_BTS, AttentionPlan):
                mixed_BTNH = attend_BTS.attend(q_BNTH, k_BNSH, v_BNSH)
            elif reads_cache and (attend_BTS is not None or q_BNTH.shape[2] == 1):
                mixed_BTNH = attend_to_cache(q_BNTH, k_BNSH, v_BNSH, attend_BTS)
            else:
                mask = None if attend_BTS is None else attend_BTS[:, None]
                is_causal = attend_BTS is None and q_BNTH.shape[2] > 1
                mixed_BTNH = F.scaled_dot_product_attention(
                    q_BNTH, k_BNSH, v_BNSH, attn_mask=mask, is_causal=is_causal
                ).transpose(1, 2)
            branches_BTX = torch.cat((mixed_BTNH.flatten(2), F.gelu(mlp_BTF, approximate="tanh")), dim=-1)
        bias_D = self.attention_bias + self.mlp_bias
        update_BTD = self.output_proj(branches_BTX, bias_D)
        if self.output_adapter is not None:
            update_BTD = self.output_adapter(branches_BTX, update_BTD)
        return x_BTD + cast(Tensor, self.dropout(update_BTD))

    def _compiled_branches(
        self,
        fused_BTX: Tensor,
        rotary: tuple[Tensor, Tensor],
        attend_BTS: Tensor | AttentionPlan | None,
        cache: KvCache | None,
        layer: int,
    ) -> Tensor | None:
        """Return attention and gelu of the rest, side by side, (B, T, D + F), or None where torch computes them."""
        if cache is None or torch.is_grad_enabled() or isinstance(attend_BTS, AttentionPlan):
            return None
        has_mask = attend_BTS is not None or fused_BTX.shape[1] == 1
        takes = has_mask and cache.writes_behind
        if not (takes and native_branches.takes(fused_BTX, self.split_sizes[1], self.head_size)):
            return None
        return cache.append_and_mix(layer, fused_BTX, rotary, attend_BTS)

    def _heads(self, x_BTD: Tensor) -> Tensor:
        num_rows, num_new = x_BTD.shape[:2]
        return x_BTD.view(num_rows, num_new, -1, self.head_size).transpose(1, 2)


class Decoder(nn.Module):
    """Phi-form decoder over the joint vocabulary, with an untied head that has a bias.

    Source: Phi-2 as released (parallel block, partial rotary, tanh-GELU); the CheXmix paper's decoder is this one with
    a grown vocabulary. Differs from ``transformers``' PhiForCausalLM in training only: one residual dropout over the
    sum of both branches instead of one each, and the same dropout on the embeddings.
    """

    def __init__(self, settings: DecoderSettings) -> None:
        super().__init__()
        self.settings = settings
        self.embedding = nn.Embedding(settings.num_rows, settings.hidden_size)
        self.blocks = nn.ModuleList(Block(settings) for _ in range(settings.num_layers))
        self.norm = nn.LayerNorm(settings.hidden_size, eps=settings.norm_eps)
        self.head: Linear | QuantizedLinear = Linear(settings.hidden_size, settings.num_rows)
        self.dropout = nn.Dropout(settings.residual_dropout)
        #: Set for weights that were trained to see images whole (``masking.attention = "bidirectional"``): then so does
        #: every pass that no plan or cache says otherwise of.
        self.image_span: ImageSpan | None = None

    def layer_states(
        self,
        token_ids_BT: Tensor,
        *,
        positions_BT: Tensor | None = None,
        attend_BTS: Tensor | AttentionPlan | None = None,
        cache: KvCache | None = None,
    ) -> Iterator[Tensor]:
        """Yield the hidden state of every layer as it is computed: the embeddings, each block, the last one normed.

        Args:
            token_ids_BT: token ids, int64.
            positions_BT: rotary position of each token, int64, below ``max_positions`` (not checked: on a GPU that
                would wait for it); default: counted on from the cache.
            attend_BTS: True where a new position may attend; default: causal over cached and new positions, and
                images seen whole in the first pass if the weights were trained so (``image_span``). A plan
                instead means sequences concatenated in one row (B = 1, no cache), and brings their positions.
            cache: positions seen before; grows by T once all layers are done.

        Yields:
            ``num_layers + 1`` tensors (B, T, D) in the weights' dtype.

        Raises:
            ShapeError: if a sequence is longer than ``max_positions`` or than the cache.
        """
        start = 0 if cache is None else cache.length
        num_new, limit = token_ids_BT.shape[1], self.settings.max_positions
        if isinstance(attend_BTS, AttentionPlan):
            positions_BT = attend_BTS.position_1T
            _require_positions(max(attend_BTS.lengths), limit)
        if positions_BT is None:
            _require_positions(start + num_new, limit)
            positions_BT = torch.arange(start, start + num_new, device=token_ids_BT.device)[None]
        if self.image_span is not None and start == 0 and not isinstance(attend_BTS, AttentionPlan):
            attend_BTS = self.image_span.attend(token_ids_BT, positions_BT, attend_BTS)
        if attend_BTS is None and 1 < num_new < start + num_new:
            attend_BTS = causal_mask(num_new, start + num_new, token_ids_BT.device)[None]
        x_BTD: Tensor = self.dropout(self.embedding(token_ids_BT))
        rotary = rotary_table(self.settings, positions_BT, x_BTD.dtype)
        for layer, block in enumerate(self.blocks):
            yield x_BTD
            x_BTD = block(x_BTD, rotary, attend_BTS, cache, layer)
        if cache is not None:
            cache.length += num_new
        yield cast(Tensor, self.norm(x_BTD))

    def hidden_states(
        self,
        token_ids_BT: Tensor,
        *,
        positions_BT: Tensor | None = None,
        attend_BTS: Tensor | AttentionPlan | None = None,
        cache: KvCache | None = None,
    ) -> list[Tensor]:
        """Return the ``num_layers + 1`` hidden states (B, T, D) of :meth:`layer_states`, all at once."""
        return list(self.layer_states(token_ids_BT, positions_BT=positions_BT, attend_BTS=attend_BTS, cache=cache))

    def forward(
        self,
        token_ids_BT: Tensor,
        *,
        positions_BT: Tensor | None = None,
        attend_BTS: Tensor | AttentionPlan | None = None,
        cache: KvCache | None = None,
        on_layer: OnLayer | None = None,
    ) -> Tensor:
        """Return the last hidden state after the final norm, (B, T, D); arguments as :meth:`layer_states`.

        Args:
            on_layer: called with the number and the states of each layer as they come: 0 the token embeddings.
        """
        states = self.layer_states(token_ids_BT, positions_BT=positions_BT, attend_BTS=attend_BTS, cache=cache)
        state_BTD = token_ids_BT
        for layer, state_BTD in enumerate(states):
            if on_layer is not None:
                on_layer(layer, state_BTD)
        return state_BTD

    def logits(self, state_BTD: Tensor, rows: slice | None = None) -> Tensor:
        """Return the logits (..., V) of final hidden states (..., D), or those of some contiguous ``rows`` only."""
        return cast(Tensor, self.head(state_BTD, rows=rows))

    def quantize(self, how: Quantize, device: torch.device) -> None:
        """Put quantised linear layers, yet to be filled, in place of its own; embeddings, norms and biases stay.

        Args:
            how: bits of the weights.
            device: where they will be.
        """
        for owner, name in self.linear_layers():
            setattr(owner, name, quantized_layer(getattr(owner, name), name, how, device))

    def linear_layers(self) -> Iterator[tuple[nn.Module, str]]:
        """Yield every linear layer as the module it belongs to and its name there."""
        for block in self.blocks:
            yield block, "input_proj"
            yield block, "output_proj"
        yield self, "head"

    def set_dropout(self, share: float) -> None:
        """Set the residual dropout, which loading for inference leaves as the weights' settings say."""
        for module in self.modules():
            if isinstance(module, nn.Dropout):
                module.p = share

    def new_cache(self, batch_size: int, capacity: int) -> KvCache:
        """Return an empty cache in the decoder's dtype and on its device."""
        weight = self.embedding.weight
        return KvCache(
            self.settings, batch_size=batch_size, capacity=capacity, dtype=weight.dtype, device=weight.device
        )


def narrowed(decoder: Decoder, how: Quantize, device: torch.device) -> Decoder:
    """Return a decoder for inference on a device, with the numbers of one on the CPU in 8 or 4 bits."""
    with on_meta_device():
        made = Decoder(decoder.settings)
        made.quantize(how, device)
    parts = [quantized_state(name, value, how, device) for name, value in decoder.state_dict().items()]
    made.load_state_dict({name: value.to(device) for part in parts for name, value in part.items()}, assign=True)
    made.image_span = decoder.image_span
    return made.eval()


def rotary_table(settings: DecoderSettings, positions_BT: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return cosine and sine of the rotary angles, each (B, 1, T, R), computed in float32.

    With ``rope_grid`` the first half of the R frequencies turns with a token's row and the second with its column, both
    halves alike; tokens behind the image lie on the grid's diagonal, going on from its last corner.
    """
    size = settings.rotary_size // 2 if settings.rope_grid else settings.rotary_size
    exponent_R = torch.arange(0, size, 2, device=positions_BT.device, dtype=torch.int64).float()
    frequency_R = 1.0 / (settings.rope_theta ** (exponent_R / size))
    frequency_R = frequency_R.to(_ROPE_DTYPES[settings.rope_dtype]).float()
    axes = grid_positions(positions_BT, settings.rope_grid) if settings.rope_grid else (positions_BT,)
    angle_B1TR = torch.cat([axis_BT[:, None, :, None].float() * frequency_R for axis_BT in axes], dim=-1)
    return angle_B1TR.cos().to(dtype), angle_B1TR.sin().to(dtype)


def grid_positions(positions_BT: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Return row and column of each position, (B, T) int64: 1 to ``side ** 2`` are an image's codes, row by row.

    ``I_s`` before them shares the first corner with the first code; position ``side ** 2 + k`` behind them is at
    ``side - 1 + k`` on both axes, so that text keeps its order and its distances.
    """
    code_BT = (positions_BT - 1).clamp_min(0)
    behind_BT = positions_BT - side**2 + side - 1
    is_behind_BT = positions_BT > side**2
    rows_BT = torch.where(is_behind_BT, behind_BT, code_BT // side)
    return rows_BT, torch.where(is_behind_BT, behind_BT, code_BT % side)


def rotate(x_BNTH: Tensor, cos_B1TR: Tensor, sin_B1TR: Tensor) -> Tensor:
    """Return heads with their first ``2 R`` features rotated, pairing feature i with i + R; the rest pass through."""
    half = cos_B1TR.shape[-1]
    first, second, rest = x_BNTH[..., :half], x_BNTH[..., half : 2 * half], x_BNTH[..., 2 * half :]
    return torch.cat((first * cos_B1TR - second * sin_B1TR, second * cos_B1TR + first * sin_B1TR, rest), dim=-1)


def _require_positions(length: int, limit: int) -> None:
    if length > limit:
        raise ShapeError(f"a sequence of {length} tokens", where="decoder", expected=f"at most {limit}")
