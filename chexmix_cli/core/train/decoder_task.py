"""Stages 1 and 2: the decoder learns documents. Units are the targets that count."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Generator, Tensor, nn

from chexmix_cli.core.models.decoder import Decoder
from chexmix_cli.core.settings.training import Stage1Training, Stage2Training
from chexmix_cli.core.train.documents import DocumentSet
from chexmix_cli.core.train.objectives import Documents, draw_masked, masked_next_token, next_token, token_losses
from chexmix_cli.core.train.order import batch_indices, step_generator
from chexmix_cli.core.train.task import Terms, autocast, device_of

#: Validation masks are drawn from this stream, so that every validation hides the same tokens.
_VALIDATION_STREAM = 2_000_003


class DecoderTask:
    """Next-token prediction, masked or not.

    Args:
        settings: root of the stage; a ``Stage2Training`` masks.
        decoder: the model in training.
        train, val: documents of the two splits.
        export: writes the model as a weights directory (the run knows its other files).
    """

    metric, higher_is_better = "val_loss", False

    def __init__(
        self,
        settings: Stage1Training | Stage2Training,
        decoder: Decoder,
        train: DocumentSet,
        val: DocumentSet,
        export: Callable[[Path], None],
    ) -> None:
        self._settings, self._vocabulary = settings, settings.model.vocabulary
        self.module: nn.Module = decoder
        self.blocks: Sequence[nn.Module] = list(decoder.blocks)
        self._decoder = decoder
        self._train, self._val, self._export = train, val, export

    def select(self, step: int) -> list[int]:
        """Return the documents of a step; every epoch is its own permutation."""
        train = self._settings.train
        return batch_indices(seed=train.seed, step=step, batch_size=train.batch_size, num_examples=len(self._train))

    def prepare(self, indices: list[int], generator: Generator) -> Documents:
        """Return documents with, each, one of its image's variants; masked in stage 2."""
        variants = torch.randint(self._train.codes_NVP.shape[1], (len(indices),), generator=generator).tolist()
        return self._corrupt(self._documents(self._train, indices, variants), generator)

    def split(self, batch: Documents, size: int) -> list[Documents]:
        """Return the documents in groups of ``size``."""
        return batch.split(size)

    def num_units(self, batch: Documents) -> int:
        """Return the number of targets that count."""
        return batch.num_targets()

    def loss(self, batch: Documents) -> Terms:
        """Return the summed cross-entropy, and it apart for image and text targets."""
        total, loss_M, target_M = token_losses(self._decoder, batch.to(device_of(self._decoder)))
        is_image_M = self._vocabulary.is_image(target_M)
        sums: dict[str, tuple[Tensor, int]] = {"loss": (total.detach(), len(loss_M))}
        for name, is_kind_M in (("loss_image", is_image_M), ("loss_text", ~is_image_M)):
            sums[name] = (loss_M[is_kind_M].sum(), int(is_kind_M.sum()))
        return Terms(total, sums)

    def after_step(self, generator: Generator) -> None:
        """Nothing is trained outside the optimiser."""

    def validate(self) -> dict[str, float]:
        """Return losses in nats a target over the validation split, with the same masks every time."""
        train = self._settings.train
        size, sums = train.micro_batch_size, dict[str, tuple[float, int]]()
        num_batches = train.validation_batches or -(-len(self._val) // size)
        chosen = torch.linspace(0, len(self._val) - 1, min(len(self._val), num_batches * size)).round().long().unique()
        for number, indices in enumerate(chosen.split(size)):
            documents = self._documents(self._val, indices.tolist(), [0] * len(indices))
            batch = self._corrupt(documents, step_generator(train.seed, _VALIDATION_STREAM + number))
            with autocast(self.module, train.precision):
                terms = self.loss(batch)
            for name, (value, count) in terms.sums.items():
                before, counted = sums.get(name, (0.0, 0))
                sums[name] = (before + float(value), counted + count)
        return {f"val_{name}": value / count for name, (value, count) in sums.items() if count}

    def example_ids(self, indices: list[int]) -> list[str]:
        """Return manifest ids."""
        return [self._train.ids[index] for index in indices]

    def export(self, directory: Path) -> None:
        """Write the model as a weights directory."""
        self._export(directory)

    def _documents(self, source: DocumentSet, indices: list[int], variants: list[int]) -> Documents:
        documents = [
            self._vocabulary.document(source.codes_NVP[index, variant].tolist(), source.reports[index])
            for index, variant in zip(indices, variants, strict=True)
        ]
        return next_token(documents, self._vocabulary)

    def _corrupt(self, documents: Documents, generator: Generator) -> Documents:
        if isinstance(self._settings, Stage1Training):
            return documents
        masking = self._settings.masking
        is_masked_BT = draw_masked(
            documents.input_BT, self._vocabulary, masking.image_ratio, masking.text_ratio, generator
        )
        hidden = masked_next_token(
            documents, is_masked_BT, self._vocabulary, masked_targets_only=masking.loss == "masked"
        )
        return dataclasses.replace(hidden, is_bidirectional=masking.attention == "bidirectional")
