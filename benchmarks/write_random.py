"""A weights directory of the released size with random numbers, written tensor by tensor: no memory of its size.

python benchmarks/write_random.py FOLDER
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from chexmix_cli.core.files import write_text
from chexmix_cli.core.settings.load import build, read_preset
from chexmix_cli.core.settings.model import ModelSettings
from chexmix_cli.core.weights import files
from chexmix_cli.core.weights.formats.header import DESCRIPTION_KEY, Description
from chexmix_cli.core.weights.formats.keys import decoder_slices
from chexmix_cli.core.weights.formats.released import config_text
from chexmix_cli.core.weights.formats.safetensors_io import write_safetensors


class RandomSource:
    """Tensors of a decoder, bfloat16, each drawn when it is asked for: norms near 1, everything else near 0."""

    where = "random"

    def __init__(self, settings: ModelSettings) -> None:
        slices = decoder_slices(settings.decoder)
        self.shapes: Mapping[str, tuple[int, ...]] = {item.key: item.shape for item in slices}
        self.dtypes: Mapping[str, str] = dict.fromkeys(self.shapes, "BF16")
        self._seeds = {key: seed for seed, key in enumerate(self.shapes)}

    def get(self, key: str) -> Tensor:
        """Return one tensor, the same each time."""
        generator = torch.Generator().manual_seed(self._seeds[key])
        value = torch.empty(self.shapes[key]).normal_(std=0.02, generator=generator)
        return (value + 1 if key.endswith("norm.weight") else value).bfloat16()

    def release(self) -> None:
        """Do nothing: a tensor lives as long as who asked for it needs it."""


def write_random(folder: Path, *, num_layers: int | None = None) -> Path:
    """Return the folder, with a decoder of the released size in it, or of fewer layers; one that is there is kept."""
    if not (folder / files.MODEL_FILE).is_file():
        settings = build(ModelSettings, read_preset("model", "phi2"))
        if num_layers is not None:
            settings = replace(settings, decoder=replace(settings.decoder, num_layers=num_layers))
        metadata = {DESCRIPTION_KEY: Description(settings, {"note": "random numbers, for benchmarks"}).to_json()}
        folder.mkdir(parents=True, exist_ok=True)
        write_safetensors(folder / files.MODEL_FILE, RandomSource(settings), metadata=metadata)
        write_text(folder / files.CONFIG_FILE, config_text(settings, "bfloat16"))
    return folder


if __name__ == "__main__":
    write_random(Path(sys.argv[1]))
