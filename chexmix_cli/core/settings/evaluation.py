"""Settings that all evaluations share."""

from __future__ import annotations

from dataclasses import dataclass

from chexmix_cli.core.settings.checks import require


@dataclass(frozen=True, kw_only=True, slots=True)
class BootstrapSettings:
    """Intervals by patient.

    Attributes:
        resamples: draws of the patients; 0 gives no intervals.
        seed: of the draws.
    """

    resamples: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        enough = self.resamples == 0 or self.resamples >= 100
        require(enough, "bootstrap.resamples", self.resamples, "0, or at least 100")


@dataclass(frozen=True, kw_only=True, slots=True)
class DiffSettings:
    """Root of ``chexmix evaluate diff``."""

    bootstrap: BootstrapSettings = BootstrapSettings()
