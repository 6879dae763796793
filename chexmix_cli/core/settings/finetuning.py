"""Settings of fine-tuning. Each task has its own root, so that a setting without effect in a task is an unknown key."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from chexmix_cli.core.errors import SettingsError
from chexmix_cli.core.settings.checks import require, require_range, require_shares
from chexmix_cli.core.settings.choices import Unstated
from chexmix_cli.core.settings.classification import ProbeSettings
from chexmix_cli.core.settings.load import Layer, Resolved, nearest_hint, read_preset, resolve
from chexmix_cli.core.settings.training import LoopSettings, OptimizerSettings

#: Matrices of a decoder block, by the names of their checkpoint keys.
LORA_TARGETS = ("q", "k", "v", "fc1", "dense", "fc2")

Method = Literal["probe", "lora", "full"]


@dataclass(frozen=True, kw_only=True, slots=True)
class LoraSettings:
    """Low-rank adapters; they train with ``--method lora`` only.

    Attributes:
        rank: of every update; below the width of each target.
        alpha: an update is scaled by alpha / rank.
        dropout: share of an update's inputs that training drops.
        targets: matrices that get an update, some of q, k, v, fc1, dense and fc2.
    """

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    targets: tuple[str, ...] = LORA_TARGETS

    def __post_init__(self) -> None:
        require(self.rank > 0, "lora.rank", self.rank, "a positive number")
        require(self.alpha > 0, "lora.alpha", self.alpha, "a positive number")
        require_range("lora.dropout", self.dropout, 0.0, 0.9)
        is_known = all(name in LORA_TARGETS for name in self.targets)
        is_list = 0 < len(set(self.targets)) == len(self.targets)
        require(is_known and is_list, "lora.targets", list(self.targets), f"some of {', '.join(LORA_TARGETS)}")


@dataclass(frozen=True, kw_only=True, slots=True)
class FilmSettings:
    """Changes that training makes to images before they are encoded.

    Attributes:
        variants: encodings made of each training image, the first unchanged, the others with small crops and
            intensity changes.
        intensity_jitter: largest relative change of contrast, brightness and gamma.
        crop_jitter: largest share of a side that a random crop removes.
    """

    variants: int = 1
    intensity_jitter: float = 0.1
    crop_jitter: float = 0.1

    def __post_init__(self) -> None:
        require(self.variants > 0, "films.variants", self.variants, "a positive number")
        require_range("films.intensity_jitter", self.intensity_jitter, 0.0, 0.5)
        require_range("films.crop_jitter", self.crop_jitter, 0.0, 0.5)


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelSettings:
    """Findings to learn, and what becomes of labels that are neither yes nor no.

    Attributes:
        names: findings by their names in the manifest; none named: all that have both classes in the train split.
        uncertain: label -1 is left out of the loss (``ignore``), or counts as 0 or 1.
        unstated: a label that is null or missing is left out of the loss (``ignore``), or counts as 0.
        balance: ``weight`` weighs present findings by absent / present of the train split, ``sample`` shows images of
            the rarer class as often as those of the other, ``none`` does neither. The exported head has the resulting
            shift of its probabilities removed.
    """

    names: tuple[str, ...] = ()
    uncertain: Literal["ignore", "zeros", "ones"] = "ignore"
    unstated: Unstated = "ignore"
    balance: Literal["none", "weight", "sample"] = "weight"

    def __post_init__(self) -> None:
        require(len(set(self.names)) == len(self.names), "labels.names", list(self.names), "each finding once")


@dataclass(frozen=True, kw_only=True, slots=True)
class HeadSettings:
    """Where the classification head reads.

    Attributes:
        layer: hidden state that is averaged over the image: 0 the token embeddings, then each block, the last one
            normed. Blocks after it are not run and not changed. None: the last.
    """

    layer: int | None = None

    def __post_init__(self) -> None:
        require(self.layer is None or self.layer >= 0, "head.layer", self.layer, "0 or more, or none")


@dataclass(frozen=True, kw_only=True, slots=True)
class HidingSettings:
    """Image tokens that training hides, so that a classifier knows films of which little is seen.

    Attributes:
        image_ratio: lower and upper bound of the share of an image that is masked; each image draws its own each time,
            uniformly between them. Validation sees whole images.
    """

    image_ratio: tuple[float, ...] = (0.0, 0.0)

    def __post_init__(self) -> None:
        require_shares("masking.image_ratio", self.image_ratio)


@dataclass(frozen=True, kw_only=True, slots=True)
class ContrastSettings:
    """Pairs of an image and its report among the other pairs of a micro-batch (symmetric InfoNCE).

    Attributes:
        layer: hidden state that is averaged over the image, and over the report; as ``head.layer`` of classification.
        size: numbers of a projected image or report.
        temperature: at the start; it is learned.
    """

    layer: int | None = None
    size: int = 128
    temperature: float = 0.07

    def __post_init__(self) -> None:
        require(self.layer is None or self.layer >= 0, "contrast.layer", self.layer, "0 or more, or none")
        require(self.size > 0, "contrast.size", self.size, "a positive number")
        require_range("contrast.temperature", self.temperature, 0.01, 1.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportLossSettings:
    """What counts in the loss of the report task.

    Attributes:
        targets: ``report`` counts the report's tokens and its end, given the image; ``all`` the image's tokens too.
    """

    targets: Literal["report", "all"] = "report"


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportFinetuning:
    """Root of ``finetune --task report``.

    Attributes:
        method: ``probe`` trains the output head alone, ``lora`` low-rank adapters, ``full`` the whole decoder.
    """

    method: Method
    train: LoopSettings
    optimizer: OptimizerSettings
    lora: LoraSettings = field(default_factory=LoraSettings)
    films: FilmSettings = field(default_factory=FilmSettings)
    loss: ReportLossSettings = field(default_factory=ReportLossSettings)


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassifyFinetuning:
    """Root of ``finetune --task classify``.

    Attributes:
        method: ``probe`` fits a logistic regression in one go; ``lora`` trains a head and low-rank adapters, ``full``
            a head and everything before it.
    """

    method: Method
    train: LoopSettings
    optimizer: OptimizerSettings
    lora: LoraSettings = field(default_factory=LoraSettings)
    films: FilmSettings = field(default_factory=FilmSettings)
    labels: LabelSettings = field(default_factory=LabelSettings)
    masking: HidingSettings = field(default_factory=HidingSettings)
    head: HeadSettings = field(default_factory=HeadSettings)
    probe: ProbeSettings = field(default_factory=ProbeSettings)


@dataclass(frozen=True, kw_only=True, slots=True)
class RetrieveFinetuning:
    """Root of ``finetune --task retrieve``.

    Attributes:
        method: ``probe`` trains the projections alone, ``lora`` low-rank adapters too, ``full`` everything before the
            layer too.
    """

    method: Method
    train: LoopSettings
    optimizer: OptimizerSettings
    lora: LoraSettings = field(default_factory=LoraSettings)
    films: FilmSettings = field(default_factory=FilmSettings)
    contrast: ContrastSettings = field(default_factory=ContrastSettings)

    def __post_init__(self) -> None:
        size = self.train.micro_batch_size
        require(size > 1, "train.micro_batch_size", size, "2 or more: pairs of a micro-batch are contrasted")


Finetuning = ReportFinetuning | ClassifyFinetuning | RetrieveFinetuning

#: ``--task`` to its root.
TASKS: dict[str, type[ReportFinetuning] | type[ClassifyFinetuning] | type[RetrieveFinetuning]] = {
    "report": ReportFinetuning,
    "classify": ClassifyFinetuning,
    "retrieve": RetrieveFinetuning,
}


def resolve_task(task: str, method: str | None, preset: str, layers: Sequence[Layer]) -> Resolved[Any]:
    """Return a task's settings from a preset and the layers above it.

    Args:
        task: ``report``, ``classify`` or ``retrieve``.
        method: of ``--method``, above all other layers; None leaves the preset's.
        preset: name of a fine-tuning preset: a table a task, and in it one a method for what differs.
        layers: configuration file and ``--set``, weakest first.

    Raises:
        SettingsError: as :func:`load.resolve`, or if a setting has no effect with the method.
    """
    if task not in TASKS:
        hint = nearest_hint(task, TASKS)
        raise SettingsError(f"unknown task {task!r}", where="--task", expected=", ".join(TASKS), hint=hint)
    values = read_preset("finetune", preset)[task]
    methods = values.pop("with", {})
    flags: list[Layer] = [("flag", {"method": method})] if method is not None else []
    base: Layer = (f"preset {preset}", values)
    chosen = resolve(TASKS[task], [base, *layers, *flags]).settings.method
    different: Layer = (f"preset {preset} with {chosen}", methods.get(chosen, {}))
    resolved = resolve(TASKS[task], [base, different, *layers, *flags])
    idle = _without_effect(task, chosen)
    for key, layer in resolved.origins.items():
        if key.startswith(idle) and not layer.startswith("preset "):
            raise SettingsError("has no effect", where=key, expected=f"a setting of --task {task} --method {chosen}")
    return resolved


def _without_effect(task: str, method: str) -> tuple[str, ...]:
    """Return the beginnings of the keys that a method of a task does not read."""
    if task == "classify" and method == "probe":
        return ("train.", "optimizer.", "lora.", "films.", "masking.", "head.", "labels.balance")
    probe = ("probe.",) if task == "classify" else ()
    return probe if method == "lora" else ("lora.", *probe)
