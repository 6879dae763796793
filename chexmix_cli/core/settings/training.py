"""Settings of training. Each stage has its own root, so that a setting without effect in a stage is an unknown key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from chexmix_cli.core.errors import SettingsError
from chexmix_cli.core.settings.checks import MOST_WORKERS, require, require_range, require_shares
from chexmix_cli.core.settings.load import Layer, Resolved, read_preset, resolve
from chexmix_cli.core.settings.model import ModelSettings

#: What a run's figures can be told to besides RUN/metrics.jsonl.
LoggerName = Literal["tensorboard", "wandb", "mlflow"]
#: Which targets count in stage 2.
MaskedLoss = Literal["masked", "masked-image", "all"]


@dataclass(frozen=True, kw_only=True, slots=True)
class LoopSettings:
    """How long and how often.

    Attributes:
        steps: optimiser steps in all, from the start of the stage.
        batch_size: images a step, or rows of documents (``packing``).
        micro_batch_size: how many of these the model takes at once (gradients accumulate over the rest).
        checkpoint_every, validate_every, log_every: in steps. A validation better than all before it is followed by a
            checkpoint too.
        keep_checkpoints: how many of the last checkpoints stay, besides that of the best validation.
        validation_batches: micro-batches of the validation split used (0: the whole split).
        patience: validations without a better value of the task's metric after which the run ends; 0: never.
        precision: ``bfloat16`` runs under autocast with float32 weights; ``auto`` takes it where the device is faster
            in it, else ``float32``. A resumed run keeps what it was begun in.
        loggers: also tell the figures to these, some of tensorboard, wandb and mlflow; in the run folder, and without
            a network unless WANDB_MODE or MLFLOW_TRACKING_URI says so. Extra ``loggers``.
        ema_decay: share that a running mean of the weights keeps at a step; the mean is what is validated and
            exported. 0: none.
        parallel: with several processes: ``ddp`` keeps the whole model on each, ``fsdp`` a share of it.
        checkpoint_activations: compute each block's activations a second time instead of keeping them.
        compile: compile each block.
        deterministic: use only operations that give the same bits every time; on a GPU that is slower, and the run ends
            where torch has none. A CPU's always do.
        workers: processes that prepare batches, and read films, ahead of this one, two each at most; 0 prepares a batch
            when its step begins. What is learnt does not depend on it.
        timeout_minutes: with several processes, how long one waits for the others before the run ends.
        seed: of initialisation, data order, masks and dropout.
    """

    steps: int
    batch_size: int
    micro_batch_size: int
    checkpoint_every: int = 500
    validate_every: int = 500
    log_every: int = 10
    keep_checkpoints: int = 2
    validation_batches: int = 0
    patience: int = 0
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    loggers: tuple[LoggerName, ...] = ()
    ema_decay: float = 0.0
    parallel: Literal["ddp", "fsdp"] = "ddp"
    checkpoint_activations: bool = False
    compile: bool = False
    deterministic: bool = False
    workers: int = 0
    timeout_minutes: int = 30
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "micro_batch_size", "checkpoint_every", "validate_every", "log_every"):
            require(getattr(self, name) > 0, f"train.{name}", getattr(self, name), "a positive number")
        require_range("train.workers", self.workers, 0, MOST_WORKERS)
        require(self.timeout_minutes > 0, "train.timeout_minutes", self.timeout_minutes, "a positive number")
        require(self.keep_checkpoints > 0, "train.keep_checkpoints", self.keep_checkpoints, "a positive number")
        require(len(set(self.loggers)) == len(self.loggers), "train.loggers", list(self.loggers), "each once")
        for name in ("patience", "validation_batches"):
            require(getattr(self, name) >= 0, f"train.{name}", getattr(self, name), "0 or more")
        require(0 <= self.ema_decay < 1, "train.ema_decay", self.ema_decay, "0 or more, below 1")
        require(
            self.batch_size % self.micro_batch_size == 0,
            "train.batch_size",
            self.batch_size,
            f"a multiple of micro_batch_size ({self.micro_batch_size})",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimizerSettings:
    """AdamW and its schedule; biases, norms and embeddings are not decayed.

    Attributes:
        learning_rate: at the end of the linear warm-up of ``warmup_steps``.
        min_learning_rate: of the last step.
        schedule: ``cosine`` decays throughout; ``wsd`` stays constant and decays over the last ``decay_share`` of the
            steps.
        clip_norm: largest norm of a step's gradient; a larger one is scaled down to it.
    """

    learning_rate: float
    min_learning_rate: float = 0.0
    warmup_steps: int = 0
    schedule: Literal["cosine", "wsd"] = "cosine"
    decay_share: float = 0.2
    weight_decay: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.95
    clip_norm: float = 1.0

    def __post_init__(self) -> None:
        require(self.learning_rate > 0, "optimizer.learning_rate", self.learning_rate, "a positive number")
        require_range("optimizer.min_learning_rate", self.min_learning_rate, 0.0, self.learning_rate)
        require(self.warmup_steps >= 0, "optimizer.warmup_steps", self.warmup_steps, "0 or more")
        require_range("optimizer.decay_share", self.decay_share, 0.0, 1.0)
        require(self.weight_decay >= 0, "optimizer.weight_decay", self.weight_decay, "0 or more")
        require_range("optimizer.beta1", self.beta1, 0.0, 0.9999)
        require_range("optimizer.beta2", self.beta2, 0.0, 0.99999)
        require(self.clip_norm > 0, "optimizer.clip_norm", self.clip_norm, "a positive number")


@dataclass(frozen=True, kw_only=True, slots=True)
class ReconstructionSettings:
    """The image tokenizer's losses and codebook.

    Attributes:
        l1, l2, gradient, commitment: weights of the terms (pixels in [-1, 1]; ``gradient`` is the L1 difference of
            neighbouring-pixel differences, which keeps vessel and rib edges).
        frequency: weight of the focal frequency term (errors of the spectrum, the larger ones more than in proportion).
        adversarial: weight of the patch discriminator's verdict; 0 trains none.
        adversarial_start: step from which that verdict counts; the discriminator learns from the first step on.
        discriminator_channels: width of its first layer.
        codebook_decay: of the running means that are the codebook.
        revive_below: a code whose running count of uses a step falls below this is replaced by a latent of the batch.
        flip: mirror half of the images; the tokenizer knows no sides.
        intensity_jitter: largest relative change of contrast, brightness and gamma.
        crop_jitter: largest share of a side that a random crop removes.
        pictures_only: freeze encoder and codebook and train only the picture decoder: all tokens made before, and all
            decoders trained on them, stay valid.
        probe_films: films of a split, at most, on which the last validation measures whether labels survive the round
            trip; 0 leaves that out.
    """

    l1: float = 1.0
    l2: float = 1.0
    gradient: float = 1.0
    frequency: float = 0.0
    adversarial: float = 0.0
    adversarial_start: int = 0
    discriminator_channels: int = 32
    commitment: float = 0.25
    codebook_decay: float = 0.99
    revive_below: float = 0.3
    flip: bool = True
    intensity_jitter: float = 0.1
    crop_jitter: float = 0.1
    pictures_only: bool = False
    probe_films: int = 512

    def __post_init__(self) -> None:
        weights = ("l1", "l2", "gradient", "frequency", "adversarial", "commitment", "revive_below")
        for name in (*weights, "adversarial_start", "probe_films"):
            require(getattr(self, name) >= 0, f"reconstruction.{name}", getattr(self, name), "0 or more")
        require(self.l1 + self.l2 > 0, "reconstruction.l1", self.l1, "l1 or l2 above 0")
        width = self.discriminator_channels
        require(width > 0 and width % 8 == 0, "reconstruction.discriminator_channels", width, "a multiple of 8")
        require_range("reconstruction.codebook_decay", self.codebook_decay, 0.0, 0.9999)
        require_range("reconstruction.intensity_jitter", self.intensity_jitter, 0.0, 0.5)
        require_range("reconstruction.crop_jitter", self.crop_jitter, 0.0, 0.5)


@dataclass(frozen=True, kw_only=True, slots=True)
class DocumentSettings:
    """How documents are made of images and reports.

    Attributes:
        variants: encodings made of each training image, the first unchanged, the others with small crops and
            intensity changes (never mirrored: a heart has a side, and a report may name one).
        text_tokenizer: ``init`` for the one in the start weights, else a model of weights.toml or a directory.
        intensity_jitter, crop_jitter: of these other encodings, as in ReconstructionSettings.
    """

    variants: int = 1
    text_tokenizer: str = "init"
    intensity_jitter: float = 0.1
    crop_jitter: float = 0.1

    def __post_init__(self) -> None:
        require(self.variants > 0, "documents.variants", self.variants, "a positive number")
        require_range("documents.intensity_jitter", self.intensity_jitter, 0.0, 0.5)
        require_range("documents.crop_jitter", self.crop_jitter, 0.0, 0.5)


@dataclass(frozen=True, kw_only=True, slots=True)
class PackingSettings:
    """How documents share rows. ``train.batch_size`` counts rows: times ``row_tokens`` it is a step's token budget.

    Attributes:
        row_tokens: tokens of a row; 0: one document a row. No row is padded, so a short row costs nothing extra.
        attention: ``inside``: a row holds whole documents, each attends to itself only and counts its positions from 0
            (a row may then be longer than ``max_positions``). ``paper``: documents follow each other, separated by
            ``I_s`` alone; rows cut that stream into equal pieces, and attention and positions run over a whole row.
    """

    row_tokens: int = 0
    attention: Literal["inside", "paper"] = "inside"

    def __post_init__(self) -> None:
        require(self.row_tokens >= 0, "packing.row_tokens", self.row_tokens, "0 or more")
        has_rows = self.attention == "inside" or self.row_tokens > 0
        require(has_rows, "packing.row_tokens", self.row_tokens, "a number of tokens for attention across documents")


@dataclass(frozen=True, kw_only=True, slots=True)
class StartSettings:
    """What the decoder starts from.

    Attributes:
        decoder: ``init`` for the decoder of the start weights, or random values if they have none; else a directory of
            a PhiForCausalLM, such as Phi-2, whose text rows are taken and whose other rows are added.
    """

    decoder: str = "init"


@dataclass(frozen=True, kw_only=True, slots=True)
class MaskingSettings:
    """Stage 2: masked image-language next-token prediction (bounds and placements are ours; see docs/model.md).

    Attributes:
        image_ratio, text_ratio: lower and upper bound; each document draws its ratio uniformly between them.
        loss: ``masked`` counts only targets that the input does not show (masked ones, the end), ``masked-image``
            those of the image and all of the report, ``all`` every one.
        attention: ``paper`` is causal; ``bidirectional`` lets image positions attend to the whole image span, and the
            trained weights say so (``decoder.attention``).
    """

    image_ratio: tuple[float, ...] = (0.0, 0.9)
    text_ratio: tuple[float, ...] = (0.0, 0.5)
    loss: MaskedLoss = "masked"
    attention: Literal["paper", "bidirectional"] = "paper"

    def __post_init__(self) -> None:
        for name in ("image_ratio", "text_ratio"):
            require_shares(f"masking.{name}", getattr(self, name))
        require(
            self.image_ratio[1] + self.text_ratio[1] > 0,
            "masking.image_ratio",
            list(self.image_ratio),
            "a ratio above 0",
        )
        leaks = self.loss == "all" and self.attention == "bidirectional"
        require(
            not leaks,
            "masking.loss",
            self.loss,
            "masked or masked-image: with bidirectional attention visible image targets see themselves",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenizerTraining:
    """Root of ``pretrain --stage tokenizer``."""

    model: ModelSettings
    train: LoopSettings
    optimizer: OptimizerSettings
    reconstruction: ReconstructionSettings = field(default_factory=ReconstructionSettings)


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage1Training:
    """Root of ``pretrain --stage 1``: next-token prediction."""

    model: ModelSettings
    train: LoopSettings
    optimizer: OptimizerSettings
    documents: DocumentSettings = field(default_factory=DocumentSettings)
    packing: PackingSettings = field(default_factory=PackingSettings)
    start: StartSettings = field(default_factory=StartSettings)

    def __post_init__(self) -> None:
        _require_fitting_rows(self.packing, self.model)
        _require_causal(self.model)


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage2Training:
    """Root of ``pretrain --stage 2``: masked image-language next-token prediction."""

    model: ModelSettings
    train: LoopSettings
    optimizer: OptimizerSettings
    documents: DocumentSettings = field(default_factory=DocumentSettings)
    packing: PackingSettings = field(default_factory=PackingSettings)
    start: StartSettings = field(default_factory=StartSettings)
    masking: MaskingSettings = field(default_factory=MaskingSettings)

    def __post_init__(self) -> None:
        _require_fitting_rows(self.packing, self.model)
        _require_causal(self.model)


def _require_fitting_rows(packing: PackingSettings, model: ModelSettings) -> None:
    limit = model.decoder.max_positions
    fits = packing.attention == "inside" or packing.row_tokens <= limit
    require(fits, "packing.row_tokens", packing.row_tokens, f"at most the decoder's {limit} positions")
    starts_at_images = packing.attention == "inside" or not model.decoder.rope_grid
    require(
        starts_at_images, "packing.attention", packing.attention, "inside: with decoder.rope_grid images come first"
    )


def _require_causal(model: ModelSettings) -> None:
    attention = model.decoder.attention
    require(attention == "causal", "model.decoder.attention", attention, "causal: stage 2's masking.attention sets it")


StageTraining = TokenizerTraining | Stage1Training | Stage2Training

#: ``--stage`` to its root.
STAGES: dict[str, type[TokenizerTraining] | type[Stage1Training] | type[Stage2Training]] = {
    "tokenizer": TokenizerTraining,
    "1": Stage1Training,
    "2": Stage2Training,
}


def resolve_stage(stage: str, preset: str, layers: Sequence[Layer]) -> Resolved[Any]:
    """Return a stage's settings from a preset and the layers above it.

    Args:
        stage: ``tokenizer``, ``1`` or ``2``.
        preset: name of a pretraining preset; it names the model preset it trains.
        layers: configuration file, ``--set`` and flags, weakest first.

    Raises:
        SettingsError: as :func:`load.resolve`, or if the preset has no such stage.
    """
    if stage not in STAGES:
        raise SettingsError(f"unknown stage {stage!r}", where="--stage", expected=", ".join(STAGES))
    values = read_preset("pretrain", preset)
    model: Mapping[str, Any] = read_preset("model", values["model"])
    base: Layer = (f"preset {preset}", {"model": model, **values.get(stage, {})})
    return resolve(STAGES[stage], [base, *layers])
