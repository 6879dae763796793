"""Settings of ``chexmix inpaint`` and ``chexmix evaluate inpainting``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

from chexmix_cli.core.settings.checks import require, require_range
from chexmix_cli.core.settings.inference import InputSettings

Strategy = Literal["single", "autoregressive", "iterative"]
STRATEGIES: tuple[str, ...] = get_args(Strategy)
Choice = Literal["best", "expected", "sample"]
Baseline = Literal["mean", "harmonic", "biharmonic", "telea"]


@dataclass(frozen=True, kw_only=True, slots=True)
class RegionSettings:
    """What of a film is hidden, and from whom.

    Attributes:
        pattern: how ``--mask-ratio`` hides codes: ``random``, ``block`` or ``border``; always nested.
        protocol: ``leak-free`` blanks the hidden pixels before the film is encoded; ``paper`` encodes the whole film
            and hides codes, which know of hidden pixels through their neighbours.
        ring: codes around those that hold hidden pixels that are hidden, too, in rings; for ``leak-free`` only.
        blank: what hidden pixels become before encoding: the ``mean`` of the visible ones, or their ``harmonic``
            interpolation. Neither knows what is hidden.
    """

    pattern: Literal["random", "block", "border"] = "random"
    protocol: Literal["leak-free", "paper"] = "leak-free"
    ring: int = 1
    blank: Literal["mean", "harmonic"] = "mean"

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
    schedule: Literal["cosine", "linear"] = "cosine"

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
        paste: only hidden pixels come from the model, all others are the film's own; else the whole picture is drawn
            from codes. Numbers of the whole picture are those of what is written.
        panels: with each result, a picture of original, masked, result and error beside each other.
        format: of results in a folder; a single file's name says it (``.png``, ``.dcm``).
    """

    paste: bool = True
    panels: bool = True
    format: Literal["png", "dicom"] = "png"


@dataclass(frozen=True, kw_only=True, slots=True)
class InpaintSettings:
    """Root of ``chexmix inpaint``."""

    input: InputSettings = field(default_factory=InputSettings)
    region: RegionSettings = RegionSettings()
    fill: FillSettings = FillSettings()
    picture: PictureSettings = PictureSettings()
