"""Initial values of modules trained from scratch."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor, nn

from chexmix_cli.core.models.decoder import Block, Decoder

#: Deviation of every matrix.
_STD = 0.02
#: Share of the deviation of a code's row that is its own noise, besides its part from the codebook vector.
_OWN = 0.3


@torch.no_grad()
def init_decoder(decoder: Decoder, generator: Generator) -> None:
    """Fill a decoder: normal matrices of deviation 0.02, branches into the residual scaled down by depth.

    Source: GPT-2's scheme, of which Phi's 0.02 is an instance; norms start at 1 and 0, biases at 0.
    """
    scale = 1 / math.sqrt(2 * decoder.settings.num_layers)
    for module in decoder.modules():
        if isinstance(module, nn.LayerNorm):
            module.reset_parameters()
        if isinstance(module, (nn.Linear, nn.Embedding)):
            module.weight.normal_(std=_STD, generator=generator)
            if isinstance(module, nn.Linear) and module.bias is not None:
                module.bias.zero_()
    for block in decoder.modules():
        if isinstance(block, Block):
            block.output_proj.weight.mul_(scale)
            block.attention_bias.zero_()
            block.mlp_bias.zero_()


@torch.no_grad()
def init_code_rows(decoder: Decoder, codebook_KE: Tensor, image_start: int, generator: Generator) -> None:
    """Start the rows of image codes, in embedding and head, from the codebook: similar codes start similar.

    Each row is a random projection of its standardised codebook vector, another one for the embedding than for the
    head, plus noise, with the deviation of all other rows. Ours: from independent rows, a short
    training spends its first steps on finding out which codes resemble which (docs/training.md has the measurement).

    Args:
        decoder: filled by :func:`init_decoder`.
        codebook_KE: of the image tokenizer, float32.
        image_start: id of code 0.
        generator: draws projections and noise.
    """
    deviation_E = codebook_KE.std(dim=0).clamp_min(1e-12)
    standard_KE = (codebook_KE - codebook_KE.mean(dim=0)) / deviation_E
    num_codes, code_size = standard_KE.shape
    for weight in (decoder.embedding.weight, decoder.head.weight):
        width = weight.shape[1]
        projection_ED = torch.randn(code_size, width, generator=generator) / math.sqrt(code_size)
        own_KD = torch.randn(num_codes, width, generator=generator)
        rows_KD = (standard_KE @ projection_ED + _OWN * own_KD) / math.sqrt(1 + _OWN**2)
        weight[image_start : image_start + num_codes] = _STD * rows_KD
