"""Stages 1 and 2: the decoder learns documents. Units are the targets that count."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from itertools import accumulate
from pathlib import Path

import torch
from torch import Generator, Tensor, nn

from chexmix_cli.core.models.decoder import Decoder
from chexmix_cli.core.settings.training import Stage1Training, Stage2Training
from chexmix_cli.core.train.examples.documents import DocumentSource
from chexmix_cli.core.train.examples.packing import Piece, RowPlan
from chexmix_cli.core.train.objectives import (
    Documents,
    documents_work,
    hiding_seeds,
    masked_next_token,
    shifted,
    sums_by_kind,
    token_losses,
)
from chexmix_cli.core.train.order import step_generator
from chexmix_cli.core.train.task import ALL, Terms, Work, autocast

#: Validation masks are drawn from this stream, so that every validation hides the same tokens.
_VALIDATION_STREAM = 2_000_003


class RowBatches:
    """Batches of rows of documents, masked in stage 2; ``train.batch_size`` of them a step, on across epochs.

    Args:
        settings: root of the stage; a ``Stage2Training`` masks.
        source: documents of the train split.

    Raises:
        TrainingError: if a document fits no row.
    """

    def __init__(self, settings: Stage1Training | Stage2Training, source: DocumentSource) -> None:
        self._settings, self._source = settings, source
        lengths = [settings.model.vocabulary.prompt_length + length for length in source.report_lengths()]
        self._rows = RowPlan(lengths, settings.packing, settings.train.seed)

    def select(self, step: int) -> list[int]:
        """Return the numbers of the rows of a step; they run on across epochs."""
        size = self._settings.train.batch_size
        return list(range(step * size, (step + 1) * size))

    def prepare(self, indices: list[int], generator: Generator, own: slice = ALL) -> Documents:
        """Return rows of documents with, each, one of its image's variants; masked in stage 2."""
        rows = [self._rows.row(index) for index in indices]
        ends = [0, *accumulate(len(row) for row in rows)]
        variants = torch.randint(self._source.num_variants, (ends[-1],), generator=generator)
        seed_N = drawn_seeds(self._settings, ends[-1], generator)
        numbers = range(len(rows))[own]
        part = slice(ends[numbers.start], ends[numbers.stop])
        pieces = [piece for row in rows[own] for piece in row]
        documents = make_documents(self._settings, self._source, pieces, variants[part].tolist(), seed_N[part])
        crosses = self._settings.packing.attention == "paper"
        return dataclasses.replace(documents, rows=tuple(len(row) for row in rows[own]), crosses_documents=crosses)

    def ids(self, indices: list[int]) -> list[str]:
        """Return the manifest ids of the documents in rows."""
        return [self._source.ids[piece.document] for index in indices for piece in self._rows.row(index)]


def drawn_seeds(settings: Stage1Training | Stage2Training, count: int, generator: Generator) -> Tensor:
    """Return a seed for what each of ``count`` documents hides, (count,) int64; stage 1 draws none."""
    if isinstance(settings, Stage1Training):
        return torch.zeros(count, dtype=torch.int64)
    return hiding_seeds(count, generator)


def make_documents(
    settings: Stage1Training | Stage2Training,
    source: DocumentSource,
    pieces: Sequence[Piece],
    variants: Sequence[int],
    seed_B: Tensor,
) -> Documents:
    """Return pieces of documents with, each, that variant of its image; stage 2 hides what its seed says."""
    vocabulary, sequences = settings.model.vocabulary, []
    for piece, variant in zip(pieces, variants, strict=True):
        document = vocabulary.document(source.codes(piece.document, variant), source.report(piece.document))
        # The token after a piece is its last target: the next document's I_s, unless a row's end cut it.
        sequences.append([*document, vocabulary.begin_image][piece.start : piece.stop + 1])
    documents = shifted(sequences, vocabulary)
    if isinstance(settings, Stage1Training):
        return documents
    masking = settings.masking
    hidden = masked_next_token(
        documents,
        vocabulary,
        image_ratio=masking.image_ratio,
        text_ratio=masking.text_ratio,
        loss=masking.loss,
        seed_B=seed_B,
    )
    return dataclasses.replace(hidden, is_bidirectional=masking.attention == "bidirectional")


class DecoderTask:
    """Next-token prediction, masked or not.

    Args:
        settings: root of the stage; a ``Stage2Training`` masks.
        decoder: the model in training.
        train, val: documents of the two splits.
        export: writes the model as a weights directory (the run knows its other files).

    Raises:
        TrainingError: if a document fits no row.
    """

    metric, higher_is_better = "val_loss", False

    def __init__(
        self,
        settings: Stage1Training | Stage2Training,
        decoder: Decoder,
        train: DocumentSource,
        val: DocumentSource,
        export: Callable[[Path], None],
    ) -> None:
        self._settings, self._vocabulary = settings, settings.model.vocabulary
        self.module: nn.Module = decoder
        self.blocks: Sequence[nn.Module] = list(decoder.blocks)
        self._decoder = decoder
        self.examples = RowBatches(settings, train)
        self._val, self._export = val, export

    def split(self, batch: Documents, size: int) -> list[Documents]:
        """Return the documents in groups of ``size`` rows."""
        return batch.split(size)

    def num_units(self, batch: Documents) -> int:
        """Return the number of targets that count."""
        return batch.num_targets()

    def work(self, batch: Documents) -> Work:
        """Return the tokens of the documents, and what they and their targets take."""
        return documents_work(self._decoder, batch)

    def loss(self, batch: Documents, step: int) -> Terms:
        """Return the summed cross-entropy, and it apart for image and text targets."""
        total, loss_M, target_M = token_losses(self._decoder, batch)
        sums = {"loss": (total.detach(), len(loss_M)), **sums_by_kind(loss_M, target_M, self._vocabulary)}
        if self._settings.packing.row_tokens and self.module.training:
            budget = len(batch.rows) * self._settings.packing.row_tokens
            sums["row_fill"] = (total.new_full((), batch.num_tokens()), budget)
        return Terms(total, sums)

    def after_step(self, generator: Generator) -> None:
        """Nothing is trained outside the optimiser."""

    def validate(self, step: int) -> dict[str, float]:
        """Return losses in nats a target over the validation split, one document a row.

        The masks are the same every time, whatever the size of a micro-batch.
        """
        train = self._settings.train
        size, sums = train.micro_batch_size, dict[str, tuple[float, int]]()
        num_batches = train.validation_batches or -(-len(self._val) // size)
        chosen = torch.linspace(0, len(self._val) - 1, min(len(self._val), num_batches * size)).round().long().unique()
        generator = step_generator(train.seed, _VALIDATION_STREAM)
        seed_N = drawn_seeds(self._settings, len(chosen), generator)
        for indices, seed_B in zip(chosen.split(size), seed_N.split(size), strict=True):
            pieces = [
                Piece(index, 0, self._vocabulary.prompt_length + len(self._val.report(index)))
                for index in indices.tolist()
            ]
            batch = make_documents(self._settings, self._val, pieces, [0] * len(pieces), seed_B)
            with autocast(self.module, train.precision):
                terms = self.loss(batch, step)
            for name, (value, count) in terms.sums.items():
                before, counted = sums.get(name, (0.0, 0))
                sums[name] = (before + float(value), counted + count)
        return {f"val_{name}": value / count for name, (value, count) in sums.items() if count}

    def export(self, directory: Path) -> None:
        """Write the model as a weights directory."""
        self._export(directory)
