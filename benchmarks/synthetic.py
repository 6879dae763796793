"""Films and weights for benchmarks that count something else than the model: smooth noise, random numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from chexmix_cli.core.models.decoder import Decoder
from chexmix_cli.core.models.vqgan import Vqgan
from chexmix_cli.core.settings.load import build, read_preset
from chexmix_cli.core.settings.model import ModelSettings
from chexmix_cli.core.weights import save_model

REPOSITORY = Path(__file__).resolve().parents[1]


def write_films(folder: Path, count: int, side: int) -> list[Path]:
    """Write so many PNG of ``side`` px into a new folder; the same ones each time. Return their paths in order."""
    folder.mkdir(parents=True)
    draw = np.random.default_rng(0)
    paths = [folder / f"{number:06d}.png" for number in range(count)]
    for path in paths:
        coarse = Image.fromarray(draw.integers(0, 255, (8, 8), np.uint8))
        coarse.resize((side, side), Image.Resampling.BICUBIC).save(path)
    return paths


def write_weights(folder: Path) -> None:
    """Write a weights directory of the preset ``debug``; the same numbers each time."""
    settings = build(ModelSettings, read_preset("model", "debug"))
    generator = torch.Generator().manual_seed(11)
    decoder, vqgan = Decoder(settings.decoder), Vqgan(settings.vqgan)
    with torch.no_grad():
        for parameter in [*decoder.parameters(), *vqgan.parameters()]:
            parameter.normal_(std=0.3, generator=generator)
    tokenizer = REPOSITORY / "chexmix_cli/assets/chexmix-mini/tokenizer.json"
    save_model(folder, settings, decoder=decoder, vqgan=vqgan, tokenizer_file=tokenizer)
