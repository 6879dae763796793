"""Settings of probes, of ``chexmix classify`` and of ``chexmix evaluate classification``."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Self

from chexmix_cli.core.errors import SettingsError
from chexmix_cli.core.settings.checks import require
from chexmix_cli.core.settings.choices import Pattern, Policy, StudyScore, Unstated
from chexmix_cli.core.settings.evaluation import BootstrapSettings
from chexmix_cli.core.settings.inference import InputSettings, RaySettings

Calibration = Literal["none", "platt", "temperature"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ProbeSettings:
    """How a linear probe is fitted. All that is chosen, is chosen on the rows it is fitted on, by patient.

    Attributes:
        layers: hidden states to choose from, 0 the token embeddings; none named: every block's.
        grid: 1 reads the mean state of the image, as the paper does; G the means of G x G squares of it, which keep
            where something is. It has to divide the side of the model's image in tokens. States are held as float32 for
            every row and layer: with a wide model, name a few ``layers``.
        components: principal components of a grid's means that are kept; the mean of the whole image is read as it is.
        c: inverse strengths of the L2 penalty to choose from, one a label (scikit-learn's C).
        folds: of the cross-validation; no patient is in two of them.
        balance: ``weight`` weighs each label's classes equally in the loss; the shift that this gives the
            probabilities is removed from the bias.
        calibration: of the probabilities, on those of the left-out folds: ``platt`` a line for each label on the
            logits, ``temperature`` one factor for all.
    """

    layers: tuple[int, ...] = ()
    grid: int = 1
    components: int = 100
    c: tuple[float, ...] = (0.001, 0.01, 0.1)
    folds: int = 5
    balance: Literal["none", "weight"] = "none"
    calibration: Calibration = "none"

    def __post_init__(self) -> None:
        are_layers = all(layer >= 0 for layer in self.layers) and len(set(self.layers)) == len(self.layers)
        require(are_layers, "probe.layers", list(self.layers), "numbers of layers, each once")
        are_strengths = bool(self.c) and all(value > 0 for value in self.c)
        require(are_strengths, "probe.c", list(self.c), "positive numbers")
        for name in ("grid", "components"):
            require(getattr(self, name) > 0, f"probe.{name}", getattr(self, name), "a positive number")
        require(self.folds >= 2, "probe.folds", self.folds, "2 or more")


@dataclass(frozen=True, kw_only=True, slots=True)
class HidingSettings:
    """What ``classify --mask-ratio`` hides.

    Attributes:
        pattern: ``random``, ``block`` or ``border``; the seed is ``--seed``, and each image has a mask of its own.
    """

    pattern: Pattern = "random"


@dataclass(frozen=True, kw_only=True, slots=True)
class ZeroShotSettings:
    """How ``classify --zero-shot`` words findings.

    Attributes:
        labels: findings to score: their names, or ``chexpert``, ``nih``, ``competition``; none named: all in the file
            of statements, or NIH's.
        statements: JSON file of finding -> [sentence that states it, sentence that denies it]; none: our own.
        prefix: put before every sentence, as the model's reports begin.
        batch_size: sentences read together.
    """

    labels: tuple[str, ...] = ()
    statements: Path | None = None
    prefix: str = "FINDINGS: "
    batch_size: int = 32

    def __post_init__(self) -> None:
        require(self.batch_size > 0, "zero_shot.batch_size", self.batch_size, "a positive number")


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassifySettings:
    """Root of ``chexmix classify``.

    Attributes:
        study: what a study's probability refers to: ``one`` image (the frontal one), or the ``max`` or ``mean`` of the
            probabilities of all its images.
    """

    input: InputSettings = field(default_factory=lambda: InputSettings(batch_size=8))
    study: StudyScore = "one"
    mask: HidingSettings = HidingSettings()
    zero_shot: ZeroShotSettings = field(default_factory=ZeroShotSettings)
    ray: RaySettings = RaySettings()


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluatedLabels:
    """Findings that are evaluated, and what becomes of labels that are neither yes nor no.

    Attributes:
        names: findings, or ``chexpert`` (14), ``nih`` (14), ``competition`` (5), ``all`` (every one of the manifest).
        fit: policies uncertain labels are fitted under, some of ignore, zeros, ones and mixed; one probe each.
        evaluate: policies they are evaluated under.
        unstated: a label that is null or missing is left out (``ignore``), or counts as 0.
    """

    names: tuple[str, ...] = ("all",)
    fit: tuple[Policy, ...] = ("ignore",)
    evaluate: tuple[Policy, ...] = ("ignore", "zeros", "ones", "mixed")
    unstated: Unstated = "ignore"

    def __post_init__(self) -> None:
        for name in ("names", "fit", "evaluate"):
            values = getattr(self, name)
            require(0 < len(set(values)) == len(values), f"labels.{name}", list(values), "one or more, each once")


@dataclass(frozen=True, kw_only=True, slots=True)
class FitSettings:
    """Rows that probes are fitted on.

    Attributes:
        rows: most train rows, drawn by patient with ``--seed``; 0 takes all.
        sweep_rows: the same where images are masked, which reads them again for each ratio.
    """

    rows: int = 0
    sweep_rows: int = 1500

    def __post_init__(self) -> None:
        for name in ("rows", "sweep_rows"):
            require(getattr(self, name) >= 0, f"fit.{name}", getattr(self, name), "0 or more")


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepSettings:
    """How images are masked for ``--mask-ratio``.

    Attributes:
        patterns: some of random, block and border.
        seeds: masks an evaluated image; numbers are means over them.
        by_label: also each label's AUROC at every point, not only their mean.
        baseline_side_px: most pixels that the baseline reads, along a side: means of square parts of the model's image,
            as many as keep to its grid of codes.
        baseline_components: principal components of these pixels.
    """

    patterns: tuple[Pattern, ...] = ("random",)
    seeds: int = 3
    by_label: bool = False
    baseline_side_px: int = 64
    baseline_components: int = 100

    def __post_init__(self) -> None:
        is_list = 0 < len(set(self.patterns)) == len(self.patterns)
        require(is_list, "sweep.patterns", list(self.patterns), "one or more, each once")
        for name in ("seeds", "baseline_side_px", "baseline_components"):
            require(getattr(self, name) > 0, f"sweep.{name}", getattr(self, name), "a positive number")


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """What a threshold is chosen for: a share of the sick that is found, or of the healthy that is left alone.

    Attributes:
        kind: ``sensitivity`` or ``specificity``.
        share: above 0 and below 1.
    """

    kind: str
    share: float

    def __str__(self) -> str:
        return f"{self.kind}={self.share:g}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the point of ``sensitivity=0.95``.

        Raises:
            SettingsError: if it is none.
        """
        kind, _, number = text.partition("=")
        try:
            share = float(number)
        except ValueError:
            share = 0.0
        if kind not in ("sensitivity", "specificity") or not 0 < share < 1:
            raise SettingsError(f"is {text!r}", where="--at", expected="sensitivity=S or specificity=S, S in 0..1")
        return cls(kind, share)


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluateClassificationSettings:
    """Root of ``chexmix evaluate classification``.

    Attributes:
        study: ``one`` scores each image; ``max`` and ``mean`` each study, by its images' probabilities.
        at: operating point, ``sensitivity=S`` or ``specificity=S``, at which findings are also called present or not.
        by: groups that are also measured apart: ``sex``, ``age_group``, ``view``, ``source`` of the manifest.
        batch_size: images that the decoder reads together.
        cases: best and worst images shown on the page, each.
    """

    input: InputSettings = field(default_factory=InputSettings)
    labels: EvaluatedLabels = field(default_factory=EvaluatedLabels)
    study: StudyScore = "one"
    fit: FitSettings = FitSettings()
    probe: ProbeSettings = field(default_factory=ProbeSettings)
    sweep: SweepSettings = field(default_factory=SweepSettings)
    bootstrap: BootstrapSettings = BootstrapSettings()
    at: str | None = None
    by: tuple[str, ...] = ()
    batch_size: int = 16
    cases: int = 6

    def __post_init__(self) -> None:
        require(self.batch_size > 0, "batch_size", self.batch_size, "a positive number")
        require(self.cases >= 0, "cases", self.cases, "0 or more")
        _ = self.point
        known = ("sex", "age_group", "view", "source")
        require(set(self.by) <= set(known), "by", ", ".join(self.by), f"some of {', '.join(known)}")

    @property
    def point(self) -> OperatingPoint | None:
        """Return the operating point that is asked for, or None."""
        return None if self.at is None else OperatingPoint.parse(self.at)
