"""Settings of ``chexmix evaluate report``."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from chexmix_cli.core.settings.checks import require
from chexmix_cli.core.settings.choices import Section
from chexmix_cli.core.settings.evaluation import BootstrapSettings


@dataclass(frozen=True, kw_only=True, slots=True)
class GreenSettings:
    """How a GREEN judge is run and its answers are read.

    Attributes:
        parser: ``official`` is the published one, ``strict`` gives no number where an answer is incomplete; ``both``
            gives both.
        max_new_tokens: longest answer; prompt and answer also fit the judge's positions.
        batch_size: answers decoded together.
    """

    parser: Literal["official", "strict", "both"] = "both"
    max_new_tokens: int = 512
    batch_size: int = 4

    def __post_init__(self) -> None:
        for name in ("max_new_tokens", "batch_size"):
            require(getattr(self, name) > 0, f"green.{name}", getattr(self, name), "a positive number")


@dataclass(frozen=True, kw_only=True, slots=True)
class ExternalSettings:
    """Metrics of other packages.

    Attributes:
        run: try METEOR, RadGraph, CheXbert, BERTScore and RadEval's metrics; each needs its package and weights on this
            machine.
        radeval: metrics of the package radeval, by its names; those of language models behind an interface need a
            network, and have none here.
        crimson: run CRIMSON, of the package crimson-score, with its own model: 4 billion weights, from the local cache.
        scores: CSV of per-report scores of CXR-Report-Metric (``study_id`` and columns), shown next to ours and
            combined to RadCliQ.
    """

    run: bool = True
    radeval: tuple[str, ...] = ("ratescore", "radcliq", "srrbert", "temporal", "radeval_bertscore")
    crimson: bool = False
    scores: Path | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportEvaluationSettings:
    """Root of ``chexmix evaluate report``.

    Attributes:
        section: what is compared: ``findings``, ``impression``, or ``both``: all but indication, comparison, technique.
        cases: reports shown on the page for each of best and worst.
        green, external, bootstrap: see there.
    """

    section: Section = "both"
    cases: int = 3
    green: GreenSettings = field(default_factory=GreenSettings)
    external: ExternalSettings = field(default_factory=ExternalSettings)
    bootstrap: BootstrapSettings = field(default_factory=BootstrapSettings)

    def __post_init__(self) -> None:
        require(self.cases >= 0, "cases", self.cases, "0 or more")
