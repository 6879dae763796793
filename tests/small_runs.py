"""Runs of seconds: a tiny model, drawn films, random documents, and a trainer of each stage over them.

Plain functions, because ``rank_program.py`` uses them in processes of its own.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from chexmix_cli.core.models.decoder import Decoder
from chexmix_cli.core.models.init import init_decoder
from chexmix_cli.core.models.vqgan import Vqgan
from chexmix_cli.core.settings.load import to_dict
from chexmix_cli.core.settings.model import DecoderSettings, ImageSettings, ModelSettings, VqganSettings
from chexmix_cli.core.settings.training import (
    LoopSettings,
    OptimizerSettings,
    Stage1Training,
    Stage2Training,
    TokenizerTraining,
)
from chexmix_cli.core.train.examples.documents import DocumentSet
from chexmix_cli.core.train.examples.films import Films, reduced
from chexmix_cli.core.train.image_tokenizer.task import TokenizerTask
from chexmix_cli.core.train.loop import Trainer
from chexmix_cli.core.train.pretrain.decoder_task import DecoderTask
from chexmix_cli.core.train.reporting.metrics import CLOCK_FIGURES
from chexmix_cli.core.vocab import compact

STAGES = ("tokenizer", "1", "2")
LOOP = LoopSettings(
    steps=9, batch_size=4, micro_batch_size=2, checkpoint_every=3, validate_every=4, log_every=1, precision="float32"
)
OPTIMIZER = OptimizerSettings(learning_rate=3e-3, warmup_steps=2, weight_decay=0.1)


def model_settings() -> ModelSettings:
    """Return settings of a 32 px model with 16 image tokens."""
    vocabulary = compact(num_text=300, num_codes=32, tokens_per_image=16)
    return ModelSettings(
        name="train-test",
        vocabulary=vocabulary,
        image=ImageSettings(resolution_px=32, intensity="voi", geometry="pad"),
        vqgan=VqganSettings(
            num_codes=32,
            code_size=4,
            latent_channels=8,
            channels=8,
            channel_multipliers=(1, 1, 2, 2),
            num_res_blocks=1,
            image_channels=1,
            num_groups=4,
        ),
        decoder=DecoderSettings(
            num_rows=vocabulary.num_rows,
            hidden_size=32,
            num_layers=2,
            num_heads=2,
            mlp_size=64,
            rotary_size=8,
            max_positions=48,
        ),
    )


def draw_film(seed: int, side: int = 40) -> Image.Image:
    """Return a smooth random picture: a few bright blobs on a gradient."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:side, 0:side] / side
    values = 0.3 * y + 0.1
    for _ in range(3):
        centre_y, centre_x, width = rng.uniform(0.2, 0.8, 3)
        values += 0.6 * np.exp(-((y - centre_y) ** 2 + (x - centre_x) ** 2) / (0.02 + 0.05 * width))
    return Image.fromarray(np.clip(values * 255, 0, 255).astype(np.uint8))


def document_set() -> DocumentSet:
    """Return 8 random documents with two image variants each."""
    rng = np.random.default_rng(7)
    codes_NVP = rng.integers(0, 32, (8, 2, 16)).astype(np.uint16)
    reports = [rng.integers(0, 290, int(length)).tolist() for length in rng.integers(4, 12, 8)]
    return DocumentSet(codes_NVP, reports, [f"doc{index}" for index in range(8)])


def make_trainer(
    stage: str,
    out: Path,
    report: Callable[[dict[str, Any]], None] = lambda record: None,
    *,
    optimizer: OptimizerSettings = OPTIMIZER,
    has_values: bool = True,
    **loop: Any,
) -> Trainer:
    """Return a fresh trainer of a stage, as a new process would make it; the decoder without values if so asked."""
    torch.manual_seed(0)
    model, documents = model_settings(), document_set()
    train = dataclasses.replace(LOOP, **loop)
    if stage == "tokenizer" and optimizer is OPTIMIZER:
        # Codes are chosen, and a choice can turn on a rounding: small steps keep two ways of summing at the same ones.
        optimizer = dataclasses.replace(OPTIMIZER, learning_rate=3e-4)
    common = {"model": model, "train": train, "optimizer": optimizer}
    if stage == "tokenizer":
        settings = TokenizerTraining(**common)
        films = Films([reduced(draw_film(seed), model) for seed in range(6)], model)
        task = TokenizerTask(settings, Vqgan(model.vqgan), films, films, [f"film{i}" for i in range(6)])
    else:
        settings = (Stage1Training if stage == "1" else Stage2Training)(**common)
        decoder = Decoder(model.decoder)
        init_decoder(decoder, torch.Generator().manual_seed(0))
        decoder = decoder if has_values else decoder.to("meta")
        task = DecoderTask(settings, decoder, documents, documents, lambda directory: save_for_test(decoder, directory))
    out.mkdir(parents=True, exist_ok=True)
    return Trainer(task, train, optimizer, to_dict(settings), out=out, report=report)


def save_for_test(decoder: Decoder, directory: Path) -> None:
    """Write a decoder's tensors, whole ones only, as an export does."""
    from safetensors.torch import save_file

    directory.mkdir(parents=True, exist_ok=True)
    save_file(decoder.state_dict(), directory / "model.safetensors")


def metrics(out: Path) -> list[dict[str, Any]]:
    """Return the metrics records without the one figure that depends on the clock."""
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in record.items() if key not in CLOCK_FIGURES} for record in records]
