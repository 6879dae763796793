"""Initial values of modules trained from scratch."""

from __future__ import annotations

import math

import torch
from torch import Generator, nn

from chexmix_cli.core.models.decoder import Block, Decoder


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
            module.weight.normal_(std=0.02, generator=generator)
            if isinstance(module, nn.Linear) and module.bias is not None:
                module.bias.zero_()
    for block in decoder.modules():
        if isinstance(block, Block):
            block.output_proj.weight.mul_(scale)
            block.attention_bias.zero_()
            block.mlp_bias.zero_()
