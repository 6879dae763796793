"""Settings of probes, of ``chexmix classify`` and of ``chexmix evaluate classification``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from chexmix_cli.core.settings.checks import require

Calibration = Literal["none", "platt", "temperature"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ProbeSettings:
    """How a linear probe is fitted. All that is chosen, is chosen on the rows it is fitted on, by patient.

    Attributes:
        layers: hidden states to choose from, 0 the token embeddings; none named: every block's.
        c: inverse strengths of the L2 penalty to choose from, one a label (scikit-learn's C).
        folds: of the cross-validation; no patient is in two of them.
        balance: ``weight`` weighs each label's classes equally in the loss; the bias takes the shift that this gives
            the probabilities back.
        calibration: of the probabilities, on those of the left-out folds: ``platt`` a line a label on the logits,
            ``temperature`` one factor for all.
    """

    layers: tuple[int, ...] = ()
    c: tuple[float, ...] = (0.001, 0.01, 0.1)
    folds: int = 5
    balance: Literal["none", "weight"] = "none"
    calibration: Calibration = "none"

    def __post_init__(self) -> None:
        are_layers = all(layer >= 0 for layer in self.layers) and len(set(self.layers)) == len(self.layers)
        require(are_layers, "probe.layers", list(self.layers), "numbers of layers, each once")
        are_strengths = bool(self.c) and all(value > 0 for value in self.c)
        require(are_strengths, "probe.c", list(self.c), "positive numbers")
        require(self.folds >= 2, "probe.folds", self.folds, "2 or more")
