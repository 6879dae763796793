"""``finetune --task report``: the report's tokens given the image. Units are the targets that count."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Generator, Tensor, nn

from chexmix_cli.core.models.decoder import Decoder
from chexmix_cli.core.settings.finetuning import ReportFinetuning
from chexmix_cli.core.train.examples.documents import DocumentSet
from chexmix_cli.core.train.finetune.examples import draw_variants, spread
from chexmix_cli.core.train.finetune.trained import TrainedParts, set_trained
from chexmix_cli.core.train.objectives import (
    IGNORED,
    Documents,
    documents_work,
    next_token,
    sums_by_kind,
    token_losses,
)
from chexmix_cli.core.train.order import batch_indices, step_generator
from chexmix_cli.core.train.task import ALL, Terms, Work, autocast
from chexmix_cli.core.vocab import Vocabulary


class ReportModel(TrainedParts):
    """The decoder, its loss as the forward pass."""

    def __init__(self, decoder: Decoder) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, documents: Documents) -> tuple[Tensor, Tensor, Tensor]:
        """Return the cross-entropy of targets that count: summed, each, and the targets; see :func:`token_losses`."""
        return token_losses(self.decoder, documents)


class ReportBatches:
    """Batches of documents.

    Args:
        settings: root of the task.
        vocabulary: the id table.
        source: documents of the train split.
        sees_whole_image: image positions of the start weights see their whole image.
    """

    def __init__(
        self, settings: ReportFinetuning, vocabulary: Vocabulary, source: DocumentSet, *, sees_whole_image: bool
    ) -> None:
        self._settings, self._vocabulary, self._source = settings, vocabulary, source
        self._sees_whole_image = sees_whole_image

    def select(self, step: int) -> list[int]:
        """Return the documents of a step; every epoch is its own permutation."""
        train = self._settings.train
        return batch_indices(seed=train.seed, step=step, batch_size=train.batch_size, num_examples=len(self._source))

    def prepare(self, indices: list[int], generator: Generator, own: slice = ALL) -> Documents:
        """Return documents with, each, one of its image's variants."""
        variants = draw_variants(self._source.codes_NVP, len(indices), generator)
        return self.documents(self._source, indices[own], variants[own])

    def documents(self, source: DocumentSet, indices: list[int], variants: list[int]) -> Documents:
        """Return documents of a split with these variants of their images; what counts is what the settings say."""
        codes = source.codes_NVP[indices, variants].tolist()
        documents = [
            self._vocabulary.document(image, source.reports[index]) for index, image in zip(indices, codes, strict=True)
        ]
        found = replace(next_token(documents, self._vocabulary), is_bidirectional=self._sees_whole_image)
        return found if self._settings.loss.targets == "all" else report_targets(found, self._vocabulary)

    def ids(self, indices: list[int]) -> list[str]:
        """Return manifest ids."""
        return [self._source.ids[index] for index in indices]


class ReportTask:
    """Next-token prediction of reports.

    Args:
        settings: root of the task.
        decoder: the start weights; what the method does not train is frozen.
        vocabulary: the id table.
        train, val: documents of the two splits.
        export: writes the model as a weights directory (the run knows its other files).
    """

    metric, higher_is_better = "val_loss", False

    def __init__(
        self,
        settings: ReportFinetuning,
        decoder: Decoder,
        vocabulary: Vocabulary,
        train: DocumentSet,
        val: DocumentSet,
        export: Callable[[Path], None],
    ) -> None:
        self._settings, self._vocabulary = settings, vocabulary
        self._decoder = decoder
        generator = step_generator(settings.train.seed, 0)
        set_trained(decoder, settings.method, settings.lora, generator, layer=decoder.settings.num_layers)
        decoder.head.requires_grad_(settings.method != "lora")
        self.module: nn.Module = ReportModel(decoder)
        self.blocks: Sequence[nn.Module] = list(decoder.blocks)
        sees_whole = decoder.image_span is not None
        self.examples = ReportBatches(settings, vocabulary, train, sees_whole_image=sees_whole)
        self._val, self._export = val, export

    def split(self, batch: Documents, size: int) -> list[Documents]:
        """Return the documents in groups of ``size``."""
        return batch.split(size)

    def num_units(self, batch: Documents) -> int:
        """Return the number of targets that count."""
        return batch.num_targets()

    def work(self, batch: Documents) -> Work:
        """Return the tokens of the documents, and what they and their targets take."""
        return documents_work(self._decoder, batch)

    def loss(self, batch: Documents, step: int) -> Terms:
        """Return the summed cross-entropy, and it apart for image and text targets."""
        total, loss_M, target_M = self.module(batch)
        kinds = sums_by_kind(loss_M, target_M, self._vocabulary)
        # Where only the report counts there is no loss of the image.
        sums = {"loss": (total.detach(), len(loss_M)), **{name: pair for name, pair in kinds.items() if pair[1]}}
        return Terms(total, sums)

    def after_step(self, generator: Generator) -> None:
        """Nothing is trained outside the optimiser."""

    def validate(self, step: int) -> dict[str, float]:
        """Return losses in nats a target over the validation split."""
        train = self._settings.train
        size, sums = train.micro_batch_size, dict[str, tuple[float, int]]()
        chosen = spread(len(self._val), train.validation_batches * size or len(self._val))
        for start in range(0, len(chosen), size):
            indices = chosen[start : start + size]
            batch = self.examples.documents(self._val, indices, [0] * len(indices))
            with autocast(self.module, train.precision):
                terms = self.loss(batch, step)
            for name, (value, count) in terms.sums.items():
                before, counted = sums.get(name, (0.0, 0))
                sums[name] = (before + float(value), counted + count)
        return {f"val_{name}": value / count for name, (value, count) in sums.items()}

    def export(self, directory: Path) -> None:
        """Write the model as a weights directory."""
        self._export(directory)


def report_targets(documents: Documents, vocabulary: Vocabulary) -> Documents:
    """Return documents in which only the report counts: its tokens and the next document's ``I_s``, which ends it."""
    position_T = torch.arange(documents.target_BT.shape[1])
    # The position of T_s, the last of the prompt, predicts the report's first token.
    target_BT = documents.target_BT.masked_fill(position_T < vocabulary.prompt_length - 1, IGNORED)
    return replace(documents, target_BT=target_BT)
