"""The image tokenizer's losses, codebook and augmentation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from chexmix_cli.core.models.vqgan import Vqgan
from chexmix_cli.core.settings.training import (
    LoopSettings,
    OptimizerSettings,
    ReconstructionSettings,
    TokenizerTraining,
)
from chexmix_cli.core.train.films import Films, stack
from chexmix_cli.core.train.loop import Trainer
from chexmix_cli.core.train.tokenizer_task import RunningCodebook, TokenizerTask, edge_difference


def test_codebook_is_the_running_mean_of_its_latents():
    embedding = nn.Embedding(2, 1)
    codebook = RunningCodebook(embedding, decay=0.5, revive_below=0.0)
    codebook.seed(torch.tensor([[0.0], [10.0]]))
    assert embedding.weight.flatten().tolist() == [0.0, 10.0]
    codebook.observe(torch.tensor([[1.0], [3.0]]))
    codebook.observe(torch.tensor([[12.0]]))
    codebook.update(torch.Generator())
    # Code 0: count (1 + 2) / 2, sum (0 + 4) / 2; code 1: count (1 + 1) / 2, sum (10 + 12) / 2.
    assert embedding.weight.flatten().tolist() == pytest.approx([2 / 1.5, 11.0])


def test_a_dead_code_moves_onto_a_latent():
    embedding = nn.Embedding(3, 1)
    codebook = RunningCodebook(embedding, decay=0.5, revive_below=0.4)
    codebook.seed(torch.tensor([[0.0], [1.0], [100.0]]))
    latents = torch.tensor([[0.1], [0.9]])
    for _ in range(2):
        codebook.observe(latents)
        codebook.update(torch.Generator().manual_seed(0))
    assert any(torch.isclose(embedding.weight[2, 0], value) for value in latents[:, 0])
    assert not embedding.weight.requires_grad


def test_edge_difference_ignores_a_constant_offset_and_sees_an_edge():
    flat = torch.zeros(1, 1, 4, 4)
    assert edge_difference(flat + 0.3, flat).abs().max() == 0
    edge = flat.clone()
    edge[..., 2:] = 1.0
    assert edge_difference(edge, flat).sum() == 3.0


def test_unchanged_films_are_what_inference_sees(draw_film, trained_model):
    from chexmix_cli.core.data.geometry import fit

    film = draw_film(0, side=100)
    films = Films([film], trained_model)
    assert np.abs(films.exact(0) - fit(film, trained_model.image, 1)).max() < 1e-6
    same = films.changed(0, torch.Generator().manual_seed(0), crop=0.0, intensity=0.0, flip=False)
    # Scaled in two steps instead of one: close, not equal.
    assert np.abs(same - films.exact(0)).max() < 0.05


def test_changes_stay_in_range_and_differ(draw_film, trained_model):
    films = Films([draw_film(1)], trained_model)
    generator = torch.Generator().manual_seed(0)
    views = [films.changed(0, generator, crop=0.2, intensity=0.3, flip=True) for _ in range(4)]
    assert all(view.shape == (1, 32, 32) and view.dtype == np.float32 and np.abs(view).max() <= 1 for view in views)
    assert all(np.abs(views[0] - view).max() > 0.02 for view in views[1:])


def test_training_learns_to_rebuild(draw_film, trained_model, tmp_path):
    """150 small steps must rebuild unseen films clearly better than their own mean grey does."""
    settings = TokenizerTraining(
        model=trained_model,
        train=LoopSettings(steps=150, batch_size=8, micro_batch_size=8, validate_every=150, precision="float32"),
        optimizer=OptimizerSettings(learning_rate=3e-3, warmup_steps=10),
        reconstruction=ReconstructionSettings(crop_jitter=0.0),
    )
    torch.manual_seed(0)
    films = Films([draw_film(seed) for seed in range(24)], trained_model)
    val = Films([draw_film(seed) for seed in range(100, 108)], trained_model)
    task = TokenizerTask(settings, Vqgan(trained_model.vqgan), films, val, [str(index) for index in range(24)])
    records = []
    Trainer(task, settings.train, settings.optimizer, {}, out=tmp_path, report=records.append).run(resume=False)
    pixels = stack([val.exact(index) for index in range(8)])
    variance = (pixels - pixels.mean(dim=(1, 2, 3), keepdim=True)).square().mean()
    result = next(record for record in records if "val_loss" in record)
    assert result["val_loss"] < 0.25 * float(variance)
    assert result["val_code_use"] > 0.5
    assert result["val_psnr"] > 20
