"""Stage ``tokenizer``: the VQGAN learns to rebuild radiographs through its codebook.

B images, C Y X channels, rows, columns, E code size, K codes, J of them, M latents.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor, nn

from chexmix_cli.core.evals.metrics.images import psnr, ssim
from chexmix_cli.core.kernels.nearest_code.op import nearest_code
from chexmix_cli.core.models.vqgan import Vqgan
from chexmix_cli.core.runtime import sent
from chexmix_cli.core.settings.training import TokenizerTraining
from chexmix_cli.core.train.distributed import rank, sum_over_ranks, tensor_from_main, world_size
from chexmix_cli.core.train.examples.films import Films, draw_change, stack
from chexmix_cli.core.train.flop import counted_flop, vqgan_flop
from chexmix_cli.core.train.image_tokenizer.discriminator import PatchDiscriminator
from chexmix_cli.core.train.image_tokenizer.reconstruction import (
    edge_difference,
    focal_frequency,
    hinge_discriminator,
    hinge_generator,
)
from chexmix_cli.core.train.image_tokenizer.round_trip import RoundTripProbe
from chexmix_cli.core.train.order import batch_indices
from chexmix_cli.core.train.task import ALL, Terms, Work, device_of
from chexmix_cli.core.weights import save_model

#: Pixels are in [-1, 1].
_DATA_RANGE = 2.0


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
        self._is_seeded = False
        self.count_K: Tensor
        self.sum_KE: Tensor

    @property
    def is_seeded(self) -> bool:
        """Return whether the first batch has been seen."""
        # Once it has, it stays so: a GPU is not asked again.
        self._is_seeded = self._is_seeded or bool(self.count_K.any())
        return self._is_seeded

    def seed(self, z_ME: Tensor) -> None:
        """Put every code onto a latent of the first micro-batch of all (rank 0's), spread evenly over it."""
        z_ME, num_codes = tensor_from_main(z_ME), len(self.count_K)
        rows = torch.linspace(0, len(z_ME) - 1, num_codes).round().long()
        self._write(torch.arange(num_codes, device=z_ME.device), z_ME[rows.to(z_ME.device)])

    def keep(self) -> None:
        """Take the existing vectors as the result of earlier training, instead of seeding codes again."""
        vectors = self._embedding[0].weight.detach().clone()
        self._write(torch.arange(len(vectors), device=vectors.device), vectors)

    def observe(self, z_ME: Tensor) -> None:
        """Remember a micro-batch's latents until :meth:`update`."""
        self._seen.append(z_ME)

    @torch.no_grad()
    def update(self, generator: Generator) -> None:
        """Move the codes to the running means of this step's latents, all ranks' together; revive dead ones."""
        z_ME = torch.cat(self._seen)
        self._seen.clear()
        codes_M = nearest_code(z_ME, self._embedding[0].weight)
        # As bincount, which waits for the device: the largest code could be beyond the last.
        uses_K = torch.zeros_like(self.count_K).index_add_(0, codes_M, torch.ones_like(z_ME[:, 0]))
        total_KE = torch.zeros_like(self.sum_KE).index_add_(0, codes_M, z_ME)
        self.count_K.lerp_(sum_over_ranks(uses_K), 1 - self.decay)
        self.sum_KE.lerp_(sum_over_ranks(total_KE), 1 - self.decay)
        alive_K, vector_KE = self.count_K >= self.revive_below, self._embedding[0].weight
        vector_KE.copy_(torch.where(alive_K[:, None], self.sum_KE / self.count_K[:, None], vector_KE))
        dead_J = (~alive_K).nonzero()[:, 0]  # the one wait for the device: how many are drawn
        if len(dead_J):
            self._write(dead_J, self._drawn(z_ME, len(dead_J), generator))

    def _drawn(self, z_ME: Tensor, count: int, generator: Generator) -> Tensor:
        """Return ``count`` of the latents of all ranks, drawn alike on each: the owner's vector, zeros from others."""
        num_local = len(z_ME)
        rows = torch.randint(num_local * world_size(), (count,), generator=generator).to(z_ME.device)
        rows -= num_local * rank()
        is_own = (rows >= 0) & (rows < num_local)
        return sum_over_ranks(torch.where(is_own[:, None], z_ME[rows.clamp(0, num_local - 1)], 0.0))

    @torch.no_grad()
    def _write(self, codes_J: Tensor, vectors_JE: Tensor) -> None:
        self._embedding[0].weight.index_copy_(0, codes_J, vectors_JE)
        self.count_K.index_fill_(0, codes_J, 1.0)
        self.sum_KE.index_copy_(0, codes_J, vectors_JE)


class FilmBatches:
    """Batches of changed films.

    Args:
        settings: root of the stage.
        films: of the train split.
        ids: manifest ids of them.
    """

    def __init__(self, settings: TokenizerTraining, films: Films, ids: list[str]) -> None:
        self._train, self._losses = settings.train, settings.reconstruction
        self._films, self._ids = films, ids

    def select(self, step: int) -> list[int]:
        """Return the images of a step; every epoch is its own permutation."""
        train = self._train
        return batch_indices(seed=train.seed, step=step, batch_size=train.batch_size, num_examples=len(self._films))

    def prepare(self, indices: list[int], generator: Generator, own: slice = ALL) -> Tensor:
        """Return changed images, (B, C, Y, X)."""
        losses = self._losses
        crop, intensity = losses.crop_jitter, losses.intensity_jitter
        draws = [draw_change(generator) for _ in indices]
        return stack(
            [
                self._films.changed(index, draw, crop=crop, intensity=intensity, flip=losses.flip)
                for index, draw in zip(indices[own], draws[own], strict=True)
            ]
        )

    def ids(self, indices: list[int]) -> list[str]:
        """Return manifest ids."""
        return [self._ids[index] for index in indices]


class TokenizerTask:
    """Reconstruction with straight-through quantisation; units are images.

    Args:
        settings: root of the stage.
        vqgan: the model in training.
        train, val: films of the two splits.
        ids: manifest ids of the train films.
        is_trained: the model has been trained before: its codebook is kept.
        probe: measures at the last validation whether labels survive the round trip.
    """

    metric, higher_is_better = "val_l2", False

    def __init__(
        self,
        settings: TokenizerTraining,
        vqgan: Vqgan,
        train: Films,
        val: Films,
        ids: list[str],
        probe: RoundTripProbe | None = None,
        *,
        is_trained: bool = False,
    ) -> None:
        self._settings, self._losses = settings, settings.reconstruction
        self.vqgan = vqgan
        self.codebook = RunningCodebook(
            vqgan.quantize.embedding, decay=self._losses.codebook_decay, revive_below=self._losses.revive_below
        )
        if is_trained:
            self.codebook.keep()
        if self._losses.pictures_only:
            for part in (vqgan.encoder, vqgan.quant_conv):
                part.requires_grad_(False)
        parts: dict[str, nn.Module] = {"vqgan": vqgan, "codebook": self.codebook}
        self.discriminator: PatchDiscriminator | None = None
        if self._losses.adversarial > 0:
            self.discriminator = PatchDiscriminator(vqgan.settings.image_channels, self._losses.discriminator_channels)
            parts["discriminator"] = self.discriminator
        self.module: nn.Module = nn.ModuleDict(parts)
        self.blocks: Sequence[nn.Module] = []
        self.examples = FilmBatches(settings, train, ids)
        self._val, self._probe = val, probe
        self._flop = self._flop_of_image()

    def split(self, batch: Tensor, size: int) -> list[Tensor]:
        """Return the images in groups of ``size``."""
        return list(batch.split(size))

    def num_units(self, batch: Tensor) -> int:
        """Return the number of images."""
        return len(batch)

    def work(self, batch: Tensor) -> Work:
        """Return the codes of the images, and what their round trips and the discriminator's verdicts take."""
        return Work(len(batch) * self._settings.model.vocabulary.tokens_per_image, len(batch) * self._flop)

    def loss(self, batch: Tensor, step: int) -> Terms:
        """Return reconstruction, commitment and adversarial losses, summed over images.

        The discriminator's own loss is in the total, which is what is minimised, and not in ``loss``, which is what
        the image tokenizer is judged by: neither side's gradient reaches the other's weights.
        """
        batch = sent(batch, device_of(self.vqgan))
        latent_BEYX = self.vqgan.latents(batch).float()
        z_ME = latent_BEYX.detach().permute(0, 2, 3, 1).flatten(0, 2)
        if not self.codebook.is_seeded:
            self.codebook.seed(z_ME)
        if not self._losses.pictures_only:
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
        if self._losses.frequency > 0:
            terms["frequency"] = focal_frequency(rebuilt, batch)
        weights = {name: float(getattr(self._losses, name)) for name in terms}
        apart = torch.zeros((), device=batch.device)
        reported: dict[str, Tensor] = {}
        if self.discriminator is not None:
            terms["adversarial"] = hinge_generator(self.discriminator.judge(rebuilt).float())
            weights["adversarial"] = self._losses.adversarial if step >= self._losses.adversarial_start else 0.0
            scores = (self.discriminator(images).float() for images in (batch, rebuilt.detach()))
            apart = hinge_discriminator(*scores).flatten(1).mean(dim=1).sum()
            reported["discriminator"] = apart
        sums = {name: term.flatten(1).mean(dim=1).sum() for name, term in terms.items()}
        total = torch.stack([weights[name] * value for name, value in sums.items()]).sum()
        reported = {"loss": total, **sums, **reported}
        return Terms(total + apart, {name: (value.detach(), len(batch)) for name, value in reported.items()})

    def after_step(self, generator: Generator) -> None:
        """Update the codebook from the step's latents."""
        if not self._losses.pictures_only:
            self.codebook.update(generator)

    def validate(self, step: int) -> dict[str, float]:
        """Return figures of the round trip over the validation split; nothing is learned from it.

        ``val_l2`` is the mean squared error (pixels in [-1, 1]), as ``l2`` is of training; ``val_psnr`` (dB) and
        ``val_ssim`` are means of images with a data range of 2, ``val_code_use`` is the share of codes that occur,
        ``val_code_perplexity`` the exponential of their entropy. The last validation adds the probe's figures.
        """
        found: dict[str, list[Tensor]] = {"val_l2": [], "val_psnr": [], "val_ssim": []}
        uses_K = torch.zeros(self._settings.model.vqgan.num_codes)
        train = self._settings.train
        size = train.micro_batch_size
        num_batches = train.validation_batches or -(-len(self._val) // size)
        # Batches evenly over the split: a manifest often lists one source after the other.
        chosen = torch.linspace(0, len(self._val) - 1, min(len(self._val), num_batches * size)).round().long()
        for indices in chosen.unique().split(size):
            pixels = stack([self._val.exact(int(index)) for index in indices]).to(device_of(self.vqgan))
            codes_BP = self.vqgan.encode(pixels)
            rebuilt = self.vqgan.decode(codes_BP).clamp(-1, 1)
            found["val_l2"].append((rebuilt - pixels).square().flatten(1).mean(dim=1))
            # A picture rebuilt to the last bit is as good as float32 can say, not infinitely good.
            found["val_psnr"].append(psnr(rebuilt, pixels, data_range=_DATA_RANGE).clamp_max(120.0))
            found["val_ssim"].append(ssim(rebuilt, pixels, data_range=_DATA_RANGE))
            uses_K += torch.bincount(codes_BP.flatten(), minlength=len(uses_K)).cpu()
        share_K = uses_K / uses_K.sum()
        entropy = -(share_K * share_K.clamp_min(1e-12).log()).sum()
        result = {name: float(torch.cat(values).mean()) for name, values in found.items()}
        result["val_code_use"] = float((uses_K > 0).float().mean())
        result["val_code_perplexity"] = float(entropy.exp())
        if self._probe is not None and step == train.steps:
            result |= self._probe.measure(self._round_trip, size)
        return result

    def _flop_of_image(self) -> int:
        """Return the operations of one image: backwards twice what forwards takes, and nothing where all is frozen."""
        model = self._settings.model
        encode, decode = vqgan_flop(model.vqgan, model.image.resolution_px)
        flop = encode * (1 if self._losses.pictures_only else 3) + 3 * decode
        if self.discriminator is None:
            return flop
        judge = copy.deepcopy(self.discriminator).to("meta")
        shape = (1, model.vqgan.image_channels, model.image.resolution_px, model.image.resolution_px)
        verdict = counted_flop(judge, torch.empty(shape, device="meta"))
        # It learns from the image and the rebuilt one; the verdict on the latter has a gradient of the pixels alone.
        return flop + (3 + 3 + 2) * verdict

    def _round_trip(self, pixels: Tensor) -> Tensor:
        codes_BP = self.vqgan.encode(pixels.to(device_of(self.vqgan)))
        return self.vqgan.decode(codes_BP).clamp(-1, 1)

    def export(self, directory: Path) -> None:
        """Write the VQGAN as a weights directory."""
        provenance: dict[str, Any] = {"stage": "tokenizer", "seed": self._settings.train.seed}
        save_model(directory, self._settings.model, vqgan=self.vqgan, provenance=provenance)
