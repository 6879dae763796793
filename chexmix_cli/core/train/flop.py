"""How many floating-point operations learning needs, from shapes alone: what ``mfu`` is a share of the peak by.

Counted are products of matrices and convolutions, an addition and a multiplication each, forwards and backwards; a
frozen matrix has no gradient of its own, and before the first trained one nothing has any. What a run computes a second
time (activations), casts, norms, softmax and the optimiser are not counted.

Source: Chowdhery et al. 2022, "PaLM", appendix B. Other than there, attention counts the pairs of positions of which
one sees the other instead of all T x T, and the head the positions whose target counts: nothing else is computed here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from chexmix_cli.core.models.attention import Context, ContextPart
from chexmix_cli.core.models.decoder import Decoder
from chexmix_cli.core.models.meta import on_meta_device
from chexmix_cli.core.models.vqgan import Vqgan
from chexmix_cli.core.settings.model import VqganSettings


@dataclass(frozen=True, slots=True)
class DecoderFlop:
    """What one step of learning takes of a decoder, forwards and backwards.

    Attributes:
        per_token: for each position that passes the blocks.
        per_pair: for each position and one that it sees, itself included.
        per_target: for each position whose logits are computed.
    """

    per_token: int
    per_pair: int
    per_target: int


def decoder_flop(decoder: Decoder, *, layer: int | None = None) -> DecoderFlop:
    """Return the operations of a decoder as it is trained: which parameters learn is asked of them.

    Args:
        decoder: with adapters, if there are any.
        layer: blocks after it are not run; None: all are.
    """
    learns = decoder.embedding.weight.requires_grad
    per_token = per_pair = 0
    for block in list(decoder.blocks)[:layer]:
        # What reads the block's own input, normed, hands a gradient on only if the norm or something before it learns.
        before = learns or any(parameter.requires_grad for parameter in block.get_submodule("norm").parameters())
        learns = learns or any(parameter.requires_grad for parameter in block.parameters())
        for name, parameter in block.named_parameters():
            if parameter.ndim == 2:
                reads_input = name.startswith("input") and not name.endswith("b_OR")
                per_token += _products(parameter, before if reads_input else learns)
        # Scores and mixed values, a product each; backwards a gradient of both operands.
        per_pair += 2 * 2 * decoder.settings.hidden_size * (3 if learns else 1)
    learns = learns or any(parameter.requires_grad for parameter in decoder.norm.parameters())
    return DecoderFlop(per_token, per_pair, _products(decoder.head.weight, learns))


def seen_pairs(contexts: Iterable[Context]) -> int:
    """Return how many pairs of a position and one that it sees, itself included, there are in contexts."""
    pairs = 0
    for context in contexts:
        start = 0
        for part in context:
            own = part.length if part.sees_itself else (part.length + 1) / 2
            pairs += int(part.length * (start + own))
            start += part.length
    return pairs


def image_context(decoder: Decoder, length: int) -> Context:
    """Return the context of a sequence of so many tokens that begins with an image, as the decoder reads it."""
    span = decoder.image_span
    if span is None:
        return (ContextPart(length),)
    rest = length - 1 - span.num_tokens
    return (ContextPart(1), ContextPart(span.num_tokens, sees_itself=True), ContextPart(rest))


def vqgan_flop(settings: VqganSettings, side_px: int) -> tuple[int, int]:
    """Return the operations of one picture to its latents, and of its way back; forwards, nothing is computed."""
    with on_meta_device():
        vqgan = Vqgan(settings)
        pixels = torch.empty(1, settings.image_channels, side_px, side_px)
    latents = vqgan.latents(pixels)
    return counted_flop(vqgan.latents, pixels), counted_flop(vqgan.decode_latents, latents)


def counted_flop(call: Callable[..., Any], *inputs: torch.Tensor) -> int:
    """Return the operations that torch counts in a call; on the meta device nothing is computed."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        call(*inputs)
    return int(counter.get_total_flops())


def _products(weight: Tensor, learns: bool) -> int:
    """Return the operations of a matrix for each vector: forwards, its gradient, that of its input if that learns."""
    return 2 * weight.numel() * (1 + weight.requires_grad + learns)
