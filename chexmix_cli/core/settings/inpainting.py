"""Settings of ``chexmix inpaint`` and ``chexmix evaluate inpainting``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

from chexmix_cli.core.settings.checks import require, require_range
from chexmix_cli.core.settings.choices import Pattern
from chexmix_cli.core.settings.evaluation import BootstrapSettings
from chexmix_cli.core.settings.inference import InputSettings

Strategy = Literal["single", "autoregressive", "iterative"]
STRATEGIES: tuple[str, ...] = get_args(Strategy)
Choice = Literal["best", "expected", "sample"]
Baseline = Literal["mean", "harmonic", "biharmonic", "tension", "telea"]
Blank = Literal["mean", "harmonic"]
Protocol = Literal["leak-free", "paper"]
Schedule = Literal["cosine", "linear"]
Join = Literal["blend", "paste", "none"]
JOINS: tuple[Join, ...] = get_args(Join)


@dataclass(frozen=True, kw_only=True, slots=True)
class RegionSettings:
    """What of a film is hidden, and from whom.

    Attributes:
        pattern: how ``--mask-ratio`` hides codes: ``random``, ``block`` or ``border``; always nested.
        protocol: ``leak-free`` blanks the hidden pixels before the film is encoded; ``paper`` encodes the whole film
            and hides codes, so that visible codes carry traces of hidden pixels.
        ring: rings of codes around those with hidden pixels that are hidden, too; for ``leak-free`` only.
        blank: what hidden pixels become before encoding: the ``mean`` of the visible ones, or their ``harmonic``
            interpolation. Neither knows what is hidden.
    """

    pattern: Pattern = "random"
    protocol: Protocol = "leak-free"
    ring: int = 1
    blank: Blank = "mean"

    def __post_init__(self) -> None:
        require_range("region.ring", self.ring, 0, 16)


@dataclass(frozen=True, kw_only=True, slots=True)
class FillSettings:
    """How hidden codes are filled.

    Attributes:
        strategy: ``single``: one pass, each from what is visible before it. ``autoregressive``: one after the other,
            each from all codes before it. ``iterative``: in rounds, the most certain first.
        choice: ``best`` takes the most probable code; ``expected`` draws the picture from the probability-weighted
            mean of all code vectors; ``sample`` draws codes with ``--seed``.
        samples: fills of one film, with ``sample``; the picture is their mean.
        temperature: divides the logits of ``expected`` and ``sample``.
        top_p: smallest set of codes whose probability reaches this is sampled from.
        rounds: passes of ``iterative``.
        schedule: share still hidden after a part x of the rounds: ``cosine`` cos(pi x / 2), ``linear`` 1 - x.
    """

    strategy: Strategy = "single"
    choice: Choice = "expected"
    samples: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    rounds: int = 8
    schedule: Schedule = "cosine"

    def __post_init__(self) -> None:
        require_range("fill.samples", self.samples, 1, 1000)
        require_range("fill.rounds", self.rounds, 1, 1000)
        require_range("fill.temperature", self.temperature, 0.01, 100.0)
        require(0 < self.top_p <= 1, "fill.top_p", self.top_p, "above 0, up to 1")
        fits = self.samples == 1 or self.choice == "sample"
        require(fits, "fill.samples", self.samples, f"1, or fill.choice = 'sample', which is {self.choice!r}")


@dataclass(frozen=True, kw_only=True, slots=True)
class PictureSettings:
    """What is written of a filled film.

    Attributes:
        join: ``blend``: the film's own pixels where it is visible, and where it is hidden a smooth continuation of
            them with the model's detail, without a seam. ``paste``: hidden pixels as the model drew them. ``none``:
            the whole picture as the model drew it. Numbers refer to what is written.
        detail: share of the model's own detail in a ``blend``; 0 leaves the continuation alone.
        panels: with each result, a picture of original, masked, result and error side by side.
        format: of results in a folder; a single file's suffix decides (``.png``, ``.dcm``).
    """

    join: Join = "blend"
    detail: float = 0.75
    panels: bool = True
    format: Literal["png", "dicom"] = "png"

    def __post_init__(self) -> None:
        require_range("picture.detail", self.detail, 0.0, 1.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class InpaintSettings:
    """Root of ``chexmix inpaint``."""

    input: InputSettings = field(default_factory=InputSettings)
    region: RegionSettings = RegionSettings()
    fill: FillSettings = FillSettings()
    picture: PictureSettings = PictureSettings()


@dataclass(frozen=True, kw_only=True, slots=True)
class MaskSweepSettings:
    """The masks of an evaluation: every ratio of every pattern under every protocol, nested and by the film's id.

    Attributes:
        ratios: shares of codes that are hidden.
        patterns: ``random``, ``block``, ``border``.
        protocols: ``leak-free`` and ``paper``, as in ``region.protocol``.
        ring, blank: as in ``region``.
    """

    ratios: tuple[float, ...] = (0.2, 0.5, 0.8)
    patterns: tuple[Pattern, ...] = ("random", "block")
    protocols: tuple[Protocol, ...] = ("leak-free",)
    ring: int = 1
    blank: Blank = "mean"

    def __post_init__(self) -> None:
        for name in ("ratios", "patterns", "protocols"):
            found = getattr(self, name)
            require(0 < len(found) == len(set(found)), f"masks.{name}", found, "at least one, none twice")
        for ratio in self.ratios:
            require(0 < ratio < 1, "masks.ratios", ratio, "above 0 and below 1")
        RegionSettings(ring=self.ring)


@dataclass(frozen=True, kw_only=True, slots=True)
class MethodSettings:
    """What fills the masks: the model by every strategy with every choice, and what it has to beat.

    Attributes:
        strategies, choices: as in ``fill``.
        baselines: fills from visible pixels alone: their ``mean``, ``harmonic``, ``biharmonic``, ``tension`` (what
            ``blend`` continues them with), ``telea``.
        detail: as in ``picture``.
        samples, temperature, top_p, rounds, schedule: as in ``fill``; ``samples`` for the choice ``sample``.
    """

    strategies: tuple[Strategy, ...] = ("single", "autoregressive", "iterative")
    choices: tuple[Choice, ...] = ("expected",)
    baselines: tuple[Baseline, ...] = ("mean", "harmonic", "biharmonic", "tension", "telea")
    detail: float = 0.75
    samples: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    rounds: int = 8
    schedule: Schedule = "cosine"

    def __post_init__(self) -> None:
        for name in ("strategies", "choices"):
            found = getattr(self, name)
            require(0 < len(found) == len(set(found)), f"methods.{name}", found, "at least one, none twice")
        require_range("methods.detail", self.detail, 0.0, 1.0)
        _ = self.fills

    @property
    def fills(self) -> dict[str, FillSettings]:
        """Return the model's methods by name."""
        return {
            f"{strategy}-{choice}": FillSettings(
                strategy=strategy,
                choice=choice,
                samples=self.samples if choice == "sample" else 1,
                temperature=self.temperature,
                top_p=self.top_p,
                rounds=self.rounds,
                schedule=self.schedule,
            )
            for strategy in self.strategies
            for choice in self.choices
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluateInpaintingSettings:
    """Root of ``chexmix evaluate inpainting``.

    Attributes:
        images: most images of the split, drawn by ``--seed``; 0 takes all.
        cases: images shown on the page for each of best and worst.
        input, masks, methods, bootstrap: see there.
    """

    images: int = 0
    cases: int = 3
    input: InputSettings = field(default_factory=InputSettings)
    masks: MaskSweepSettings = field(default_factory=MaskSweepSettings)
    methods: MethodSettings = field(default_factory=MethodSettings)
    bootstrap: BootstrapSettings = field(default_factory=BootstrapSettings)

    def __post_init__(self) -> None:
        for name in ("images", "cases"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "0 or more")
