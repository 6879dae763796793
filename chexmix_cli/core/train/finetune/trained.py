"""What a fine-tuning run trains: the module it hands to the loop, and which of the decoder's parameters learn."""

from __future__ import annotations

from typing import Any

import torch
from torch import Generator, Tensor, nn

from chexmix_cli.core.models.decoder import Decoder
from chexmix_cli.core.models.lora import add_adapters
from chexmix_cli.core.settings.finetuning import LoraSettings

#: A feature that varies less than this is taken to be constant.
_LEAST_SCALE = 1e-6


class TrainedParts(nn.Module):
    """A module whose state is what it learns: frozen parameters come from the start weights, not from a checkpoint."""

    def __init__(self) -> None:
        super().__init__()
        self.register_state_dict_post_hook(_drop_frozen)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_post_hook(_expect_no_frozen)  # type: ignore[no-untyped-call]


def _drop_frozen(module: nn.Module, state: dict[str, Any], prefix: str, _metadata: Any) -> None:
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            del state[prefix + name]


def _expect_no_frozen(module: nn.Module, keys: Any) -> None:
    frozen = {name for name, parameter in module.named_parameters() if not parameter.requires_grad}
    keys.missing_keys[:] = [key for key in keys.missing_keys if key not in frozen]


def set_trained(decoder: Decoder, method: str, lora: LoraSettings, generator: Generator, *, layer: int) -> None:
    """Leave those parameters trainable that a method trains and that the states of ``layer`` depend on.

    Args:
        decoder: changed in place.
        method: ``probe`` freezes all; ``lora`` adds adapters; ``full`` trains every block up to ``layer``.
        lora: of the adapters.
        generator: of their initial values.
        layer: as of :func:`pooled_state`; blocks after it, and the norm and head they feed, do not change.
    """
    decoder.requires_grad_(False)
    if method == "lora":
        add_adapters(decoder, lora, generator, num_blocks=layer)
    if method == "full":
        decoder.embedding.requires_grad_(True)
        for block in list(decoder.blocks)[:layer]:
            block.requires_grad_(True)
        decoder.norm.requires_grad_(layer == len(decoder.blocks))


@torch.no_grad()
def standardise(part: nn.Module, pooled_ND: Tensor) -> None:
    """Set the buffers ``mean_D`` and ``scale_D`` of a part to those of states; a constant feature keeps scale 1."""
    scale_D = pooled_ND.std(dim=0, correction=0)
    part.get_buffer("mean_D").copy_(pooled_ND.mean(dim=0))
    part.get_buffer("scale_D").copy_(scale_D.where(scale_D > _LEAST_SCALE, 1.0))
