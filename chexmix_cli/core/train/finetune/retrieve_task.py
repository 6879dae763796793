"""``finetune --task retrieve``: images and their reports come to lie together. Units are pairs.

Shape letters: B pairs, T positions, D hidden, E projected, N examples, V variants of an image.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Generator, Tensor, nn

from chexmix_cli.core.infer.retrieval.projection import Projection
from chexmix_cli.core.models.attention import ContextPart
from chexmix_cli.core.models.decoder import Decoder
from chexmix_cli.core.models.pooling import pooled_state
from chexmix_cli.core.runtime import sent
from chexmix_cli.core.settings.finetuning import RetrieveFinetuning
from chexmix_cli.core.train.examples.code_cache import Progress
from chexmix_cli.core.train.examples.documents import DocumentSet
from chexmix_cli.core.train.finetune.contrast import contrastive_losses, recall_figures
from chexmix_cli.core.train.finetune.examples import draw_variants, image_sequences, report_sequences, spread
from chexmix_cli.core.train.finetune.trained import TrainedParts, set_trained, standardise
from chexmix_cli.core.train.flop import decoder_flop, image_context, seen_pairs
from chexmix_cli.core.train.order import batch_indices, step_generator
from chexmix_cli.core.train.task import ALL, Terms, Work, autocast, device_of
from chexmix_cli.core.vocab import Vocabulary

#: Most training pairs that the standardisation of pooled states is computed from.
_MOST_STANDARDISED = 1024
#: Pairs that an unchanging decoder reads at a time: of more, a CPU's caches no longer hold what it computes.
_READ_AT_ONCE = 16


@dataclass(frozen=True, slots=True)
class Side:
    """Images or reports of pairs, as sequences for the decoder or as states pooled before.

    Attributes:
        input: token ids (B, T) int64, or pooled states (B, D) float32.
        is_pooled_BT: the positions to average over, or None for pooled states.
    """

    input: Tensor
    is_pooled_BT: Tensor | None

    def split(self, size: int) -> list[Side]:
        """Return groups of ``size``."""
        inputs = self.input.split(size)
        masks = [None] * len(inputs) if self.is_pooled_BT is None else list(self.is_pooled_BT.split(size))
        return [Side(*parts) for parts in zip(inputs, masks, strict=True)]

    def pooled_lengths(self) -> list[int]:
        """Return how many positions of each sequence are averaged over; none of pooled states."""
        return [] if self.is_pooled_BT is None else self.is_pooled_BT.sum(dim=1).tolist()

    def to(self, device: torch.device) -> Side:
        """Return the side on a device."""
        return Side(sent(self.input, device), None if self.is_pooled_BT is None else sent(self.is_pooled_BT, device))


@dataclass(frozen=True, slots=True)
class PairBatch:
    """Images and their reports side by side; ``report_B`` numbers the reports, equal texts alike."""

    image: Side
    text: Side
    report_B: Tensor

    def split(self, size: int) -> list[PairBatch]:
        """Return the pairs in groups of ``size``."""
        parts = zip(self.image.split(size), self.text.split(size), self.report_B.split(size), strict=True)
        return [PairBatch(*part) for part in parts]

    def to(self, device: torch.device) -> PairBatch:
        """Return the pairs on a device."""
        return PairBatch(self.image.to(device), self.text.to(device), sent(self.report_B, device))


class PairModel(TrainedParts):
    """Decoder and projections; ``forward`` gives both sides of pairs, each (B, E), and the temperature."""

    def __init__(self, decoder: Decoder, projection: Projection) -> None:
        super().__init__()
        self.decoder, self.projection = decoder, projection

    def forward(self, pairs: PairBatch) -> tuple[Tensor, Tensor, Tensor]:
        projection = self.projection
        return (
            projection.image(self.pool(pairs.image)),
            projection.text(self.pool(pairs.text)),
            projection.temperature(),
        )

    def pool(self, side: Side) -> Tensor:
        """Return the pooled states of one side, (B, D)."""
        if side.is_pooled_BT is None:
            return side.input
        return pooled_state(self.decoder, side.input, side.is_pooled_BT, self.projection.layer)


class PairSource:
    """The pairs of one split.

    Args:
        documents: images and reports.
        vocabulary: the id table.
    """

    def __init__(self, documents: DocumentSet, vocabulary: Vocabulary) -> None:
        self.documents, self._vocabulary = documents, vocabulary
        numbers: dict[tuple[int, ...], int] = {}
        self._report_N = torch.tensor([numbers.setdefault(tuple(report), len(numbers)) for report in documents.reports])
        self._pooled: tuple[Tensor, Tensor] | None = None

    def __len__(self) -> int:
        return len(self.documents)

    def pairs(self, indices: list[int], variants: list[int], longest: int = 0) -> PairBatch:
        """Return pairs, each with one of its image's variants; reports padded as for one of ``longest`` tokens."""
        report_B = self._report_N[indices]
        if self._pooled is not None:
            image_NVD, text_ND = self._pooled
            return PairBatch(Side(image_NVD[indices, variants], None), Side(text_ND[indices], None), report_B)
        images = image_sequences(self.documents.codes_NVP[indices, variants], self._vocabulary)
        texts = report_sequences([self.documents.reports[index] for index in indices], self._vocabulary, longest)
        return PairBatch(Side(*images), Side(*texts), report_B)

    @torch.no_grad()
    def pool(self, model: PairModel, told: Callable[[int, int], None]) -> None:
        """Give pooled states from now on instead of sequences: those of a decoder that does not change.

        Args:
            model: decoder and the layer that is pooled.
            told: called with (pairs done, in all).
        """
        images, texts = [], []
        everything = list(range(len(self)))
        for start in range(0, len(self), _READ_AT_ONCE):
            indices = everything[start : start + _READ_AT_ONCE]
            for variant in range(self.documents.codes_NVP.shape[1]):
                pairs = self.pairs(indices, [variant] * len(indices)).to(device_of(model))
                images.append(model.pool(pairs.image).cpu())
            texts.append(model.pool(pairs.text).cpu())
            told(start + len(indices), len(self))
        num_variants = self.documents.codes_NVP.shape[1]
        parts = [torch.stack(images[at : at + num_variants], dim=1) for at in range(0, len(images), num_variants)]
        self._pooled = torch.cat(parts), torch.cat(texts)


class PairBatches:
    """Batches of pairs.

    Args:
        settings: root of the task.
        source: pairs of the train split.
    """

    def __init__(self, settings: RetrieveFinetuning, source: PairSource) -> None:
        self._train, self._source = settings.train, source

    def select(self, step: int) -> list[int]:
        """Return the pairs of a step; every epoch is its own permutation."""
        train = self._train
        return batch_indices(seed=train.seed, step=step, batch_size=train.batch_size, num_examples=len(self._source))

    def prepare(self, indices: list[int], generator: Generator, own: slice = ALL) -> PairBatch:
        """Return pairs with, each, one of its image's variants."""
        variants = draw_variants(self._source.documents.codes_NVP, len(indices), generator)
        # As long as all of the step's: padding shows in the last digits, and must not depend on how pairs are shared.
        longest = max(len(self._source.documents.reports[index]) for index in indices)
        return self._source.pairs(indices[own], variants[own], longest)

    def ids(self, indices: list[int]) -> list[str]:
        """Return manifest ids."""
        return [self._source.documents.ids[index] for index in indices]


class RetrieveTask:
    """Symmetric InfoNCE among the pairs of a micro-batch.

    Args:
        settings: root of the task.
        decoder: the start weights; what the method does not train is frozen.
        vocabulary: the id table.
        train, val: images and reports of the two splits.
        export: writes the model with these projections as a weights directory.
        progress: called with (what, done, in all) while a decoder that does not change reads everything.
    """

    metric, higher_is_better = "val_recall", True

    def __init__(
        self,
        settings: RetrieveFinetuning,
        decoder: Decoder,
        vocabulary: Vocabulary,
        train: DocumentSet,
        val: DocumentSet,
        export: Callable[[Path, Projection], None],
        progress: Progress,
    ) -> None:
        self._settings, self._export, self._decoder = settings, export, decoder
        self._train, self._val = PairSource(train, vocabulary), PairSource(val, vocabulary)
        self.examples = PairBatches(settings, self._train)
        contrast, shape = settings.contrast, decoder.settings
        layer = shape.num_layers if contrast.layer is None else contrast.layer
        generator = step_generator(settings.train.seed, 0)
        self.projection = Projection(layer=layer, hidden_size=shape.hidden_size, size=contrast.size)
        set_trained(decoder, settings.method, settings.lora, generator, layer=layer)
        model = PairModel(decoder, self.projection).to(device_of(decoder))
        self._start(model, generator, progress)
        self.module: nn.Module = model
        self.blocks: Sequence[nn.Module] = [] if settings.method == "probe" else list(decoder.blocks)[:layer]

    def split(self, batch: PairBatch, size: int) -> list[PairBatch]:
        """Return the pairs in groups of ``size``: the groups within which pairs are contrasted."""
        return batch.split(size)

    def num_units(self, batch: PairBatch) -> int:
        """Return the number of pairs."""
        return len(batch.report_B)

    def work(self, batch: PairBatch) -> Work:
        """Return the tokens of images and reports, and what they take up to the layer that is read.

        Pooled states have no tokens any more, and take next to nothing.
        """
        # A marker stands before what is pooled; an image has another one behind it.
        images = [image_context(self._decoder, length + 2) for length in batch.image.pooled_lengths()]
        texts = [(ContextPart(length + 1),) for length in batch.text.pooled_lengths()]
        tokens = sum(part.length for context in (*images, *texts) for part in context)
        flop = decoder_flop(self._decoder, layer=self.projection.layer)
        return Work(tokens, flop.per_token * tokens + flop.per_pair * seen_pairs([*images, *texts]))

    def loss(self, batch: PairBatch, step: int) -> Terms:
        """Return the summed contrastive loss."""
        pairs = batch.to(device_of(self.module))
        image_BE, text_BE, temperature = self.module(pairs)
        loss_B = contrastive_losses(image_BE, text_BE, temperature, pairs.report_B)
        count = len(loss_B)
        sums = {"loss": (loss_B.detach().sum(), count), "temperature": (temperature.detach() * count, count)}
        return Terms(loss_B.sum(), sums)

    def after_step(self, generator: Generator) -> None:
        """Nothing is trained outside the optimiser."""

    def validate(self, step: int) -> dict[str, float]:
        """Return recall and mean rank in both directions over the validation split, and the loss."""
        train = self._settings.train
        size = train.micro_batch_size
        chosen = spread(len(self._val), train.validation_batches * size or len(self._val))
        images, texts, reports, losses = [], [], [], []
        for start in range(0, len(chosen), size):
            indices = chosen[start : start + size]
            pairs = self._val.pairs(indices, [0] * len(indices))
            with autocast(self.module, train.precision):
                image_BE, text_BE, temperature = self.module(pairs.to(device_of(self.module)))
            report_B = sent(pairs.report_B, image_BE.device)
            losses.append(contrastive_losses(image_BE, text_BE, temperature, report_B).cpu())
            images.append(image_BE.float().cpu())
            texts.append(text_BE.float().cpu())
            reports.append(pairs.report_B)
        # Fewer pairs are easier to tell apart: a last group that is smaller says nothing beside the training loss.
        whole = [loss_B for loss_B in losses if len(loss_B) == len(losses[0])]
        figures = recall_figures(torch.cat(images), torch.cat(texts), torch.cat(reports))
        return {**figures, "val_loss": float(torch.cat(whole).mean())}

    def export(self, directory: Path) -> None:
        """Write the model with its projections as a weights directory."""
        self._export(directory, self.projection)

    @torch.no_grad()
    def _start(self, model: PairModel, generator: Generator, progress: Progress) -> None:
        """Standardise with the start weights' states of the train split; draw both projections."""
        size = self._settings.train.micro_batch_size
        model.eval()
        if self._settings.method == "probe":
            for name, source in (("train", self._train), ("val", self._val)):
                source.pool(model, partial(progress, f"read {name}"))
        chosen = spread(len(self._train), _MOST_STANDARDISED)
        groups = [chosen[start : start + size] for start in range(0, len(chosen), size)]
        pairs = [self._train.pairs(indices, [0] * len(indices)).to(device_of(model)) for indices in groups]
        standardise(self.projection.image, torch.cat([model.pool(group.image) for group in pairs]))
        standardise(self.projection.text, torch.cat([model.pool(group.text) for group in pairs]))
        for tower in (self.projection.image, self.projection.text):
            start = torch.randn(tower.projection.weight.shape, generator=generator)
            tower.projection.weight.copy_(start / math.sqrt(self.projection.hidden_size))
        self.projection.log_temperature.fill_(math.log(self._settings.contrast.temperature))
