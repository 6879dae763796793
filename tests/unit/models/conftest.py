from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from chexmix_cli.core.models.decoder import Decoder
from chexmix_cli.core.settings.model import DecoderSettings


@pytest.fixture(autouse=True)
def _on_one_thread(one_thread: None) -> None:
    """Ask for one thread in every test of this folder."""


@pytest.fixture
def make_decoder() -> Callable[[DecoderSettings], Decoder]:
    """Return a function that builds a decoder with every parameter random: no bias is 0."""

    def build(settings: DecoderSettings) -> Decoder:
        built = Decoder(settings)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in built.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3 + (parameter.ndim == 1) * 0.5)
        return built.eval()

    return build
