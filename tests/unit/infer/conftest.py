"""A model with the embedded model's vocabulary and text tokenizer, small and random enough to test decoding on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import chexmix_cli
from chexmix_cli.core.models.decoder import Decoder
from chexmix_cli.core.models.vqgan import Vqgan
from chexmix_cli.core.settings.model import DecoderSettings, ImageSettings, ModelSettings, VqganSettings
from chexmix_cli.core.text.tokenizer import TextTokenizer
from chexmix_cli.core.vocab import Vocabulary, compact


@pytest.fixture(autouse=True)
def _on_one_thread(one_thread: None) -> None:
    """Ask for one thread in every test of this folder."""


@pytest.fixture(scope="session")
def vocabulary() -> Vocabulary:
    """Return ids with the embedded model's text part and small images: 16 codes each."""
    return compact(num_text=1024, num_codes=40, tokens_per_image=16)


@pytest.fixture(scope="session")
def tokenizer(vocabulary: Vocabulary) -> TextTokenizer:
    """Return the text tokenizer of the embedded model."""
    found = TextTokenizer.load(Path(chexmix_cli.__file__).parent / "assets" / "chexmix-mini", vocabulary)
    assert found is not None
    return found


@pytest.fixture(scope="session")
def model_settings(vocabulary: Vocabulary) -> ModelSettings:
    """Return a grey 32 px model."""
    return ModelSettings(
        name="infer-test",
        vocabulary=vocabulary,
        image=ImageSettings(resolution_px=32, intensity="voi", geometry="pad"),
        vqgan=VqganSettings(
            num_codes=vocabulary.num_codes,
            code_size=4,
            latent_channels=6,
            channels=8,
            channel_multipliers=(1, 2, 1, 2),
            num_res_blocks=1,
            image_channels=1,
            num_groups=4,
        ),
        decoder=DecoderSettings(
            num_rows=vocabulary.num_rows,
            hidden_size=32,
            num_layers=2,
            num_heads=2,
            mlp_size=48,
            rotary_size=8,
            max_positions=64,
        ),
    )


@torch.no_grad()
def randomise(module: torch.nn.Module, seed: int) -> None:
    """Fill every parameter with numbers that matter."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        scale = parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.3
        parameter.copy_(noise * scale)
    for name, parameter in module.named_parameters():
        if "norm" in name and name.endswith("weight"):
            parameter.add_(1.0)


@pytest.fixture
def make_decoder(model_settings: ModelSettings) -> Callable[[int], Decoder]:
    """Return a function that builds a random decoder whose next id depends on the ids before it."""

    def build(seed: int = 0) -> Decoder:
        decoder = Decoder(model_settings.decoder)
        randomise(decoder, seed)
        with torch.no_grad():
            decoder.embedding.weight.mul_(8.0)
        return decoder.eval()

    return build


@pytest.fixture
def decoder(make_decoder: Callable[[int], Decoder]) -> Decoder:
    """Return one random decoder, the test's own to change."""
    return make_decoder(0)


@pytest.fixture
def vqgan(model_settings: ModelSettings) -> Vqgan:
    """Return one random image tokenizer."""
    built = Vqgan(model_settings.vqgan)
    randomise(built, 1)
    return built.eval()


@pytest.fixture
def codes(vocabulary: Vocabulary) -> list[list[int]]:
    """Return the codes of three images."""
    generator = torch.Generator().manual_seed(9)
    return torch.randint(0, vocabulary.num_codes, (3, vocabulary.tokens_per_image), generator=generator).tolist()
