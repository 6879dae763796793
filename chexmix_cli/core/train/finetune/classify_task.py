"""``finetune --task classify``: findings from the mean state of the image. Units are labels that count.

Shape letters: B images, T positions, D hidden, L findings, N examples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from chexmix_cli.core.errors import TrainingError
from chexmix_cli.core.models.decoder import Decoder
from chexmix_cli.core.models.pooling import pooled_state
from chexmix_cli.core.runtime import sent
from chexmix_cli.core.settings.finetuning import ClassifyFinetuning
from chexmix_cli.core.train.examples.code_cache import Codes
from chexmix_cli.core.train.finetune import labels
from chexmix_cli.core.train.finetune.examples import draw_variants, hide_codes, image_sequences, spread
from chexmix_cli.core.train.finetune.trained import TrainedParts, set_trained, standardise
from chexmix_cli.core.train.flop import decoder_flop, image_context, seen_pairs
from chexmix_cli.core.train.objectives import hiding_seeds
from chexmix_cli.core.train.order import batch_indices, step_generator
from chexmix_cli.core.train.task import ALL, Terms, Work, autocast, device_of
from chexmix_cli.core.vocab import Vocabulary

#: Most training images that the standardisation of pooled states is computed from.
_MOST_STANDARDISED = 1024


@dataclass(frozen=True, slots=True)
class LabelledSet:
    """Images of one split with their targets.

    Attributes:
        codes_NVP: image codes; variant 0 is the image as it is.
        target_NL: 1 present, 0 absent, NaN not counted.
        ids: manifest ids.
        patients: of the images; an image without one is a patient of its own.
    """

    codes_NVP: Codes
    target_NL: Tensor
    ids: list[str]
    patients: list[str]


@dataclass(frozen=True, slots=True)
class Labelled:
    """Images as sequences, the positions averaged over, and targets."""

    token_ids_BT: Tensor
    is_image_BT: Tensor
    target_BL: Tensor

    def split(self, size: int) -> list[Labelled]:
        """Return the images in groups of ``size``."""
        parts = (self.token_ids_BT.split(size), self.is_image_BT.split(size), self.target_BL.split(size))
        return [Labelled(*part) for part in zip(*parts, strict=True)]

    def to(self, device: torch.device) -> Labelled:
        """Return the images on a device."""
        return Labelled(*(sent(part, device) for part in (self.token_ids_BT, self.is_image_BT, self.target_BL)))


class FindingsModel(TrainedParts):
    """Decoder and head; ``forward`` gives the logits (B, L)."""

    def __init__(self, decoder: Decoder, layer: int, num_findings: int) -> None:
        super().__init__()
        width = decoder.settings.hidden_size
        self.decoder, self.layer = decoder, layer
        self.register_buffer("mean_D", torch.zeros(width))
        self.register_buffer("scale_D", torch.ones(width))
        self.head = nn.Linear(width, num_findings)
        self.mean_D: Tensor
        self.scale_D: Tensor

    def forward(self, images: Labelled) -> Tensor:
        state_BD = pooled_state(self.decoder, images.token_ids_BT, images.is_image_BT, self.layer)
        # In float32, as the exported head computes: under autocast close logits would tie.
        with torch.autocast(state_BD.device.type, enabled=False):
            logit_BL: Tensor = self.head((state_BD - self.mean_D) / self.scale_D)
        return logit_BL


class LabelledBatches:
    """Batches of images with their targets.

    Args:
        settings: root of the task.
        vocabulary: the id table.
        images: of the train split.
        shown: their indices, as often in an epoch as each comes.
    """

    def __init__(
        self, settings: ClassifyFinetuning, vocabulary: Vocabulary, images: LabelledSet, shown: list[int]
    ) -> None:
        self._train, self._vocabulary, self._images, self.shown = settings.train, vocabulary, images, shown
        self._image_ratio = settings.masking.image_ratio

    def select(self, step: int) -> list[int]:
        """Return the images of a step; every epoch is its own permutation, in which a balanced image may come again."""
        train = self._train
        found = batch_indices(seed=train.seed, step=step, batch_size=train.batch_size, num_examples=len(self.shown))
        return [self.shown[index] for index in found]

    def prepare(self, indices: list[int], generator: Generator, own: slice = ALL) -> Labelled:
        """Return images, each as one of its variants, with the share of its tokens masked that it draws."""
        variants = draw_variants(self._images.codes_NVP, len(indices), generator)[own]
        token_ids_BT, is_image_BT = image_sequences(self._images.codes_NVP[indices[own], variants], self._vocabulary)
        if self._image_ratio[1] > 0:
            seed_B = hiding_seeds(len(indices), generator)[own]
            token_ids_BT = hide_codes(token_ids_BT, self._vocabulary, self._image_ratio, seed_B)
        return Labelled(token_ids_BT, is_image_BT, self._images.target_NL[indices[own]])

    def ids(self, indices: list[int]) -> list[str]:
        """Return manifest ids."""
        return [self._images.ids[index] for index in indices]


class ClassifyTask:
    """Binary cross-entropy of every finding.

    Args:
        settings: root of the task.
        decoder: the start weights; what the method does not train is frozen.
        vocabulary: the id table.
        names: the findings, in the order of the targets.
        train, val: images of the two splits.
        export: writes the model as a weights directory, given the head's biases without what balancing adds, and the
            logits and targets of the validation rows.
    """

    metric, higher_is_better = "val_auroc", True

    def __init__(
        self,
        settings: ClassifyFinetuning,
        decoder: Decoder,
        vocabulary: Vocabulary,
        train: LabelledSet,
        val: LabelledSet,
        export: Callable[[Path, FindingsModel, Tensor, tuple[Tensor, Tensor]], None],
    ) -> None:
        self._settings, self._vocabulary, self._export = settings, vocabulary, export
        self._train, self._val = train, val
        most = settings.train.validation_batches * settings.train.micro_batch_size
        self._looked_at = spread(len(val.ids), most or len(val.ids))
        require_evaluable(val.target_NL[self._looked_at])
        layer = decoder.settings.num_layers if settings.head.layer is None else settings.head.layer
        generator = step_generator(settings.train.seed, 0)
        set_trained(decoder, settings.method, settings.lora, generator, layer=layer)
        balance = settings.labels.balance
        shown = labels.repeats(train.target_NL) if balance == "sample" else [1] * len(train.ids)
        order = [index for index, times in enumerate(shown) for _ in range(times)]
        self.examples = LabelledBatches(settings, vocabulary, train, order)
        target_ML = train.target_NL[order]
        self._present_weight_L = torch.ones(train.target_NL.shape[1])
        if balance == "weight":
            self._present_weight_L = labels.present_weights(train.target_NL)
        # What balancing adds to the logits a perfect model would learn; the exported head is without it.
        self._shift_L = self._present_weight_L.log() + labels.log_odds(target_ML) - labels.log_odds(train.target_NL)
        self._validated = (torch.empty(0), torch.empty(0))
        self._model = FindingsModel(decoder, layer, len(self._shift_L)).to(device_of(decoder))
        self._start(labels.log_odds(train.target_NL) + self._shift_L)
        self.module: nn.Module = self._model
        self.blocks: Sequence[nn.Module] = list(decoder.blocks)[:layer]

    def split(self, batch: Labelled, size: int) -> list[Labelled]:
        """Return the images in groups of ``size``."""
        return batch.split(size)

    def num_units(self, batch: Labelled) -> int:
        """Return the number of labels that count."""
        return int((~batch.target_BL.isnan()).sum())

    def work(self, batch: Labelled) -> Work:
        """Return the tokens of the images, and what they take up to the layer that is read."""
        num_images, length = batch.token_ids_BT.shape
        decoder = self._model.decoder
        flop = decoder_flop(decoder, layer=self._model.layer)
        pairs = num_images * seen_pairs([image_context(decoder, length)])
        tokens = num_images * length
        return Work(tokens, flop.per_token * tokens + flop.per_pair * pairs)

    def loss(self, batch: Labelled, step: int) -> Terms:
        """Return the summed cross-entropy of the labels that count."""
        device, count = device_of(self.module), self.num_units(batch)
        images = batch.to(device)
        loss = label_losses(self.module(images), images.target_BL, sent(self._present_weight_L, device))
        return Terms(loss, {"loss": (loss.detach(), count)} if count else {})

    def after_step(self, generator: Generator) -> None:
        """Nothing is trained outside the optimiser."""

    def validate(self, step: int) -> dict[str, float]:
        """Return the loss, and the mean AUROC of the findings with both classes in what is looked at."""
        train, chosen = self._settings.train, self._looked_at
        size = train.micro_batch_size
        logits: list[Tensor] = []
        for start in range(0, len(chosen), size):
            indices = chosen[start : start + size]
            sequences = image_sequences(self._val.codes_NVP[indices, 0], self._vocabulary)
            images = Labelled(*sequences, self._val.target_NL[indices])
            with autocast(self.module, train.precision):
                logits.append(self.module(images.to(device_of(self.module))).cpu())
        logit_NL, target_NL = torch.cat(logits), self._val.target_NL[chosen]
        self._validated = logit_NL - self._shift_L, target_NL
        loss = label_losses(logit_NL, target_NL, self._present_weight_L)
        return {
            "val_auroc": mean_auroc(logit_NL, target_NL),
            "val_loss": float(loss) / int((~target_NL.isnan()).sum()),
        }

    def export(self, directory: Path) -> None:
        """Write the model as it was last validated as a weights directory; balancing is taken out of its biases."""
        self._export(directory, self._model, self._model.head.bias.detach().cpu() - self._shift_L, self._validated)

    @torch.no_grad()
    def _start(self, bias_L: Tensor) -> None:
        """Standardise with the start weights' states of the train split; begin at the shares of the findings."""
        model, size = self._model.eval(), self._settings.train.micro_batch_size
        device = device_of(model)
        chosen = spread(len(self._train.ids), _MOST_STANDARDISED)
        pooled = []
        for start in range(0, len(chosen), size):
            codes_BP = self._train.codes_NVP[chosen[start : start + size], 0]
            token_ids_BT, is_image_BT = (part.to(device) for part in image_sequences(codes_BP, self._vocabulary))
            pooled.append(pooled_state(model.decoder, token_ids_BT, is_image_BT, model.layer))
        standardise(model, torch.cat(pooled))
        model.head.weight.zero_()
        model.head.bias.copy_(bias_L)


def label_losses(logit_BL: Tensor, target_BL: Tensor, present_weight_L: Tensor) -> Tensor:
    """Return the binary cross-entropy in nats, summed over the labels that count; weights are those of present ones."""
    counts_BL = ~target_BL.isnan()
    loss_BL = F.binary_cross_entropy_with_logits(
        logit_BL, target_BL.nan_to_num(), pos_weight=present_weight_L, reduction="none"
    )
    return loss_BL.masked_fill(~counts_BL, 0.0).sum()


def evaluable(target_NL: Tensor) -> Tensor:
    """Return which findings have both classes, (L,) bool: the others have no AUROC."""
    absent_L, present_L = labels.class_counts(target_NL)
    return (absent_L > 0) & (present_L > 0)


def require_evaluable(target_NL: Tensor) -> None:
    """Raise TrainingError unless a finding has both classes in these validation rows."""
    if not evaluable(target_NL).any():
        raise TrainingError("no finding has both classes in the validation rows", where="labels")


def mean_auroc(logit_NL: Tensor, target_NL: Tensor) -> float:
    """Return the mean AUROC of the findings that have both classes; 0.5 would be chance."""
    from sklearn.metrics import roc_auc_score

    values = []
    for finding in evaluable(target_NL).nonzero().flatten().tolist():
        counts_N = ~target_NL[:, finding].isnan()
        values.append(float(roc_auc_score(target_NL[counts_N, finding].numpy(), logit_NL[counts_N, finding].numpy())))
    return sum(values) / len(values)
