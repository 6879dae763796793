"""Stage ``tokenizer``: the VQGAN learns to rebuild radiographs through its codebook.

B images, C Y X channels, rows, columns, E code size, K codes, M latents.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor, nn

from chexmix_cli.core.kernels.nearest_code.reference import nearest_code
from chexmix_cli.core.models.vqgan import Vqgan
from chexmix_cli.core.settings.training import TokenizerTraining
from chexmix_cli.core.train.films import Films, stack
from chexmix_cli.core.train.order import batch_indices
from chexmix_cli.core.train.task import Terms, device_of
from chexmix_cli.core.weights import save_model


class RunningCodebook(nn.Module):
    """Codebook vectors as running means of the latents assigned to them (van den Oord et al. 2017, appendix A.1).

    A code that is hardly used any more is put onto a random latent of the batch. The first batch seeds all codes.
    """

    def __init__(self, embedding: nn.Embedding, *, decay: float, revive_below: float) -> None:
        super().__init__()
        embedding.weight.requires_grad_(False)
        self._embedding = [embedding]  # in a list: the VQGAN owns the parameter, a checkpoint holds it once
        self.decay, self.revive_below = decay, revive_below
        self.register_buffer("count_K", torch.zeros(embedding.num_embeddings))
        self.register_buffer("sum_KE", torch.zeros_like(embedding.weight))
        self._seen: list[Tensor] = []
        self.count_K: Tensor
        self.sum_KE: Tensor

    @property
    def is_seeded(self) -> bool:
        """Return whether the first batch has been seen."""
        return bool(self.count_K.any())

    def seed(self, z_ME: Tensor) -> None:
        """Put every code onto a latent of the first batch, spread evenly over it."""
        num_codes = len(self.count_K)
        rows = torch.linspace(0, len(z_ME) - 1, num_codes).round().long()
        self._write(torch.ones(num_codes, dtype=torch.bool, device=z_ME.device), z_ME[rows])

    def observe(self, z_ME: Tensor) -> None:
        """Remember a micro-batch's latents until :meth:`update`."""
        self._seen.append(z_ME)

    @torch.no_grad()
    def update(self, generator: Generator) -> None:
        """Move the codes to the running means of this step's latents; revive dead ones."""
        z_ME = torch.cat(self._seen)
        self._seen.clear()
        codes_M = nearest_code(z_ME, self._embedding[0].weight)
        uses_K = torch.bincount(codes_M, minlength=len(self.count_K)).float()
        total_KE = torch.zeros_like(self.sum_KE).index_add_(0, codes_M, z_ME)
        self.count_K.lerp_(uses_K, 1 - self.decay)
        self.sum_KE.lerp_(total_KE, 1 - self.decay)
        alive_K = self.count_K >= self.revive_below
        self._embedding[0].weight[alive_K] = self.sum_KE[alive_K] / self.count_K[alive_K, None]
        num_dead = int((~alive_K).sum())
        if num_dead:
            rows = torch.randint(len(z_ME), (num_dead,), generator=generator)
            self._write(~alive_K, z_ME[rows])

    @torch.no_grad()
    def _write(self, is_new_K: Tensor, vectors: Tensor) -> None:
        self._embedding[0].weight[is_new_K] = vectors
        self.count_K[is_new_K] = 1.0
        self.sum_KE[is_new_K] = vectors


class TokenizerTask:
    """Reconstruction with straight-through quantisation; units are images."""

    metric, higher_is_better = "val_loss", False

    def __init__(self, settings: TokenizerTraining, vqgan: Vqgan, train: Films, val: Films, ids: list[str]) -> None:
        self._settings, self._losses = settings, settings.reconstruction
        self.vqgan = vqgan
        self.codebook = RunningCodebook(
            vqgan.quantize.embedding, decay=self._losses.codebook_decay, revive_below=self._losses.revive_below
        )
        self.module: nn.Module = nn.ModuleDict({"vqgan": vqgan, "codebook": self.codebook})
        self.blocks: Sequence[nn.Module] = ()
        self._train, self._val, self._ids = train, val, ids

    def select(self, step: int) -> list[int]:
        """Return the images of a step; every epoch is its own permutation."""
        train = self._settings.train
        return batch_indices(seed=train.seed, step=step, batch_size=train.batch_size, num_examples=len(self._train))

    def prepare(self, indices: list[int], generator: Generator) -> Tensor:
        """Return changed images, (B, C, Y, X)."""
        losses = self._losses
        crop, intensity = losses.crop_jitter, losses.intensity_jitter
        films = [
            self._train.changed(index, generator, crop=crop, intensity=intensity, flip=losses.flip) for index in indices
        ]
        return stack(films)

    def split(self, batch: Tensor, size: int) -> list[Tensor]:
        """Return the images in groups of ``size``."""
        return list(batch.split(size))

    def num_units(self, batch: Tensor) -> int:
        """Return the number of images."""
        return len(batch)

    def loss(self, batch: Tensor) -> Terms:
        """Return reconstruction and commitment losses, summed over images."""
        batch = batch.to(device_of(self.vqgan))
        latent_BEYX = self.vqgan.latents(batch).float()
        z_ME = latent_BEYX.detach().permute(0, 2, 3, 1).flatten(0, 2)
        if not self.codebook.is_seeded:
            self.codebook.seed(z_ME)
        self.codebook.observe(z_ME)
        nearest_BEYX = self.vqgan.quantize.decode(self.vqgan.quantize.encode(latent_BEYX.detach()))
        straight_BEYX = latent_BEYX + (nearest_BEYX - latent_BEYX).detach()
        rebuilt = self.vqgan.decode_latents(straight_BEYX).float()
        terms = {
            "l1": (rebuilt - batch).abs(),
            "l2": (rebuilt - batch).square(),
            "gradient": edge_difference(rebuilt, batch),
            "commitment": (latent_BEYX - nearest_BEYX).square(),
        }
        sums = {name: term.flatten(1).mean(dim=1).sum() for name, term in terms.items()}
        total = torch.stack([getattr(self._losses, name) * value for name, value in sums.items()]).sum()
        reported = {"loss": total, **sums}
        return Terms(total, {name: (value.detach(), len(batch)) for name, value in reported.items()})

    def after_step(self, generator: Generator) -> None:
        """Update the codebook from the step's latents."""
        self.codebook.update(generator)

    def validate(self) -> dict[str, float]:
        """Return loss (mean squared error), PSNR (dB, mean of images, range 2), code use and perplexity."""
        errors: list[Tensor] = []
        uses_K = torch.zeros(self._settings.model.vqgan.num_codes)
        size = self._settings.train.micro_batch_size
        num_batches = self._settings.train.validation_batches or -(-len(self._val) // size)
        # Batches evenly over the split: a manifest often lists one source after the other.
        chosen = torch.linspace(0, len(self._val) - 1, min(len(self._val), num_batches * size)).round().long()
        for indices in chosen.unique().split(size):
            pixels = stack([self._val.exact(int(index)) for index in indices]).to(device_of(self.vqgan))
            codes_BP = self.vqgan.encode(pixels)
            rebuilt = self.vqgan.decode(codes_BP).clamp(-1, 1)
            errors.append((rebuilt - pixels).square().flatten(1).mean(dim=1))
            uses_K += torch.bincount(codes_BP.flatten(), minlength=len(uses_K)).cpu()
        error_B = torch.cat(errors)
        share_K = uses_K / uses_K.sum()
        entropy = -(share_K * share_K.clamp_min(1e-12).log()).sum()
        return {
            "val_loss": float(error_B.mean()),
            "val_psnr": float((10 * torch.log10(4 / error_B.clamp_min(1e-12))).mean()),
            "val_code_use": float((uses_K > 0).float().mean()),
            "val_code_perplexity": float(entropy.exp()),
        }

    def example_ids(self, indices: list[int]) -> list[str]:
        """Return manifest ids."""
        return [self._ids[index] for index in indices]

    def export(self, directory: Path) -> None:
        """Write the VQGAN as a weights directory."""
        provenance: dict[str, Any] = {"stage": "tokenizer", "seed": self._settings.train.seed}
        save_model(directory, self._settings.model, vqgan=self.vqgan, provenance=provenance)


def edge_difference(rebuilt: Tensor, original: Tensor) -> Tensor:
    """Return the absolute difference of neighbouring-pixel differences, (B, C, Y-1, X-1), rows plus columns."""
    error = rebuilt - original
    rows = (error[..., 1:, :-1] - error[..., :-1, :-1]).abs()
    columns = (error[..., :-1, 1:] - error[..., :-1, :-1]).abs()
    return rows + columns
