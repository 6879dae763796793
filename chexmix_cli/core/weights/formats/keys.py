"""The one table between checkpoint keys and module parameters: which tensor is which slice of which parameter.

A decoder checkpoint has ``PhiForCausalLM``'s keys (docs/model.md). Our block holds them fused: the rows of
``input_proj`` are [q; k; v; fc1], the columns of ``output_proj`` are [dense | fc2]. A VQGAN has its checkpoint's names.
Moving a slice copies numbers, it never computes: what comes in goes out bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from chexmix_cli.core.settings.model import DecoderSettings

if TYPE_CHECKING:
    from torch import Tensor, nn

#: Parts of a released ``vqgan.ckpt`` that only its training needed.
TRAINING_ONLY = ("loss.", "discriminator.")


@dataclass(frozen=True, slots=True)
class Slice:
    """One checkpoint tensor and its place: ``parameter`` from ``start`` on along ``dim``.

    Attributes:
        key: name in the checkpoint.
        shape: of the checkpoint's tensor.
        parameter: name in the module.
    """

    key: str
    shape: tuple[int, ...]
    parameter: str
    dim: int = 0
    start: int = 0

    def of(self, parameter: Tensor) -> Tensor:
        """Return the view of ``parameter`` that this slice is."""
        return parameter.narrow(self.dim, self.start, self.shape[self.dim]) if self.shape else parameter


def joined_shape(parts: Iterable[Slice]) -> tuple[int, ...]:
    """Return the shape of a parameter of which these are all slices."""
    first, *_ = parts = sorted(parts, key=lambda part: part.start)
    if len(parts) == 1:
        return first.shape
    end = parts[-1].start + parts[-1].shape[first.dim]
    return (*first.shape[: first.dim], end, *first.shape[first.dim + 1 :])


def decoder_slices(settings: DecoderSettings) -> list[Slice]:
    """Return every tensor of a decoder checkpoint with its place in ``Decoder``."""
    rows, hidden = settings.num_rows, settings.hidden_size
    slices = [
        Slice("model.embed_tokens.weight", (rows, hidden), "embedding.weight"),
        Slice("model.final_layernorm.weight", (hidden,), "norm.weight"),
        Slice("model.final_layernorm.bias", (hidden,), "norm.bias"),
        Slice("lm_head.weight", (rows, hidden), "head.weight"),
        Slice("lm_head.bias", (rows,), "head.bias"),
    ]
    for layer in range(settings.num_layers):
        slices += _block_slices(settings, f"model.layers.{layer}.", f"blocks.{layer}.")
    return slices


def _block_slices(settings: DecoderSettings, theirs: str, ours: str) -> list[Slice]:
    hidden, mlp = settings.hidden_size, settings.mlp_size
    slices = [
        Slice(f"{theirs}input_layernorm.weight", (hidden,), f"{ours}norm.weight"),
        Slice(f"{theirs}input_layernorm.bias", (hidden,), f"{ours}norm.bias"),
    ]
    start = 0
    for name, size in (
        ("self_attn.q_proj", hidden),
        ("self_attn.k_proj", hidden),
        ("self_attn.v_proj", hidden),
        ("mlp.fc1", mlp),
    ):
        slices.append(Slice(f"{theirs}{name}.weight", (size, hidden), f"{ours}input_proj.weight", 0, start))
        slices.append(Slice(f"{theirs}{name}.bias", (size,), f"{ours}input_proj.bias", 0, start))
        start += size
    return [
        *slices,
        Slice(f"{theirs}self_attn.dense.weight", (hidden, hidden), f"{ours}output_proj.weight", 1, 0),
        Slice(f"{theirs}self_attn.dense.bias", (hidden,), f"{ours}attention_bias"),
        Slice(f"{theirs}mlp.fc2.weight", (hidden, mlp), f"{ours}output_proj.weight", 1, hidden),
        Slice(f"{theirs}mlp.fc2.bias", (hidden,), f"{ours}mlp_bias"),
    ]


def same_name_slices(module: nn.Module) -> list[Slice]:
    """Return the table of a module whose checkpoint has its own parameter names (the VQGAN)."""
    return [Slice(name, tuple(value.shape), name) for name, value in module.state_dict().items()]


def is_training_only(key: str) -> bool:
    """Return whether a VQGAN checkpoint's key is dropped on purpose: the loss networks of its training."""
    return key.startswith(TRAINING_ONLY)


def num_parameters(slices: Iterable[Slice]) -> int:
    """Return the number of elements of all tensors of a table."""
    return sum(math.prod(item.shape) for item in slices)
