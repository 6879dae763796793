"""AUROC while more and more of the image is masked: of the model's embeddings and of the pixel baseline, in one run.

Every feature has two probes: fitted on images as they are (``clean``), and fitted on images masked by the same pattern
and ratio (``masked``). Masks are nested, and the same for model and baseline. What is masked are tokens, after the
image tokenizer has read the whole image: a code's neighbours may know a little of what it hid (``hidden: tokens`` in
the signatures). Of the baseline, the pixels themselves are masked.

R rows, N items, P positions, K labels, S seeds. What the points come to: masking_numbers.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from chexmix_cli.core.evals.classification.items import Items
from chexmix_cli.core.evals.classification.pixel_baseline import PixelComponents, fill_masked
from chexmix_cli.core.evals.metrics.binary import Floats
from chexmix_cli.core.infer.classification.heads import Head
from chexmix_cli.core.infer.position_masks import hidden_positions, hiding_order
from chexmix_cli.core.settings.choices import Pattern
from chexmix_cli.core.settings.classification import SweepSettings

States = NDArray[np.float32]
Masks = NDArray[np.bool_]


class Features(Protocol):
    """One kind of features: the model's embeddings, or the baseline's components; ``hidden`` says what is masked."""

    name: str
    hidden: str

    def train(self, is_masked_RP: Masks | None, what: str) -> tuple[States, Callable[[Masks | None, str], States]]:
        """Return the train rows' features, and what gives those of evaluated rows in the same way."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MaskedPoint:
    """Probabilities at one point of a curve: (S, N, K), one set a seed."""

    features: Features
    fit: str
    pattern: Pattern | None
    ratio: float
    prob_SNK: Floats


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepPlan:
    """What is masked.

    Attributes:
        ratios: shares of the positions, rising.
        settings: patterns and seeds.
        seed: the first one; the masks of train rows take it too, under their own ids.
        grid_size: positions along a side.
        train_ids, ids: of the rows fitted on (empty with an existing head), and evaluated.
    """

    ratios: Sequence[float]
    settings: SweepSettings
    seed: int
    grid_size: int
    train_ids: Sequence[str]
    ids: Sequence[str]

    def masks(self, pattern: Pattern, ratio: float, seed: int, ids: Sequence[str]) -> Masks:
        """Return the masks of rows, (R, P) bool."""
        orders = [hiding_order(pattern, self.grid_size, seed=seed, key=row_id) for row_id in ids]
        return np.stack([hidden_positions(order, ratio) for order in orders])


class ModelFeatures:
    """The model's embeddings of one layer.

    Args:
        name: in the results.
        embed: gives embeddings (R, D) of codes (R, P) with masks (R, P); the string names the bar.
        train_codes_RP, codes_RP: of the rows fitted on and evaluated.
        unmasked: their embeddings without masks, computed before.
    """

    def __init__(
        self,
        name: str,
        embed: Callable[[NDArray[np.uint16], Masks, str], States],
        train_codes_RP: NDArray[np.uint16],
        codes_RP: NDArray[np.uint16],
        unmasked: tuple[States, States],
    ) -> None:
        self.name, self.hidden = name, "tokens"
        self._embed, self._train_codes_RP, self._codes_RP = embed, train_codes_RP, codes_RP
        self._train_RD, self._seen_RD = unmasked

    def train(self, is_masked_RP: Masks | None, what: str) -> tuple[States, Callable[[Masks | None, str], States]]:
        """Return the train rows' embeddings, and the function of the evaluated rows'."""
        if is_masked_RP is None:
            return self._train_RD, self.evaluated
        return self._embed(self._train_codes_RP, is_masked_RP, what), self.evaluated

    def evaluated(self, is_masked_RP: Masks | None, what: str) -> States:
        """Return the evaluated rows' embeddings."""
        return self._seen_RD if is_masked_RP is None else self._embed(self._codes_RP, is_masked_RP, what)


class PixelFeatures:
    """Components of the pixels, fitted on the train rows as the probe sees them.

    Args:
        train_pixels_RYX, pixels_RYX: of the rows fitted on and evaluated.
        components: how many.
        seed: of the decomposition.
    """

    def __init__(self, train_pixels_RYX: States, pixels_RYX: States, components: int, seed: int) -> None:
        self.name, self.hidden = f"pixels-pca{components}", "pixels"
        self._train_RYX, self._pixels_RYX = train_pixels_RYX, pixels_RYX
        self._components, self._seed = components, seed

    def train(self, is_masked_RP: Masks | None, what: str) -> tuple[States, Callable[[Masks | None, str], States]]:
        """Return the train rows' components, and the function of the evaluated rows' in the same components."""
        seen_RYX = self._train_RYX if is_masked_RP is None else fill_masked(self._train_RYX, is_masked_RP)
        found = PixelComponents(seen_RYX, self._components, self._seed)

        def evaluated(is_masked_RP: Masks | None, what: str) -> States:
            masked = self._pixels_RYX if is_masked_RP is None else fill_masked(self._pixels_RYX, is_masked_RP)
            return found.features(masked)

        return found.features(seen_RYX), evaluated


def sweep(features: Features, plan: SweepPlan, items: Items, fit: Callable[[States], Head]) -> list[MaskedPoint]:
    """Return the points of one kind of features: both fits, every pattern and ratio.

    Args:
        features: the model's or the baseline's.
        plan: ratios, patterns, seeds, rows.
        items: what is scored.
        fit: gives the probe of train features.
    """
    train_RD, evaluated = features.train(None, f"{features.name}, train rows")
    clean = fit(train_RD)
    points = _clean_points(features, clean, evaluated, plan, items)
    for pattern in plan.settings.patterns:
        for ratio in (ratio for ratio in plan.ratios if ratio > 0):
            what = f"{features.name}, {pattern} {ratio:g}"
            is_masked_RP = plan.masks(pattern, ratio, plan.seed, plan.train_ids)
            masked_RD, as_masked = features.train(is_masked_RP, f"{what}, train rows")
            masked = fit(masked_RD)
            probs: dict[str, list[Floats]] = {"clean": [], "masked": []}
            for seed in range(plan.seed, plan.seed + plan.settings.seeds):
                is_hidden_RP = plan.masks(pattern, ratio, seed, plan.ids)
                seen_RD = evaluated(is_hidden_RP, what)
                # The model's embeddings do not depend on what was fitted, and are made once; the baseline's do.
                masked_seen_RD = seen_RD if as_masked == evaluated else as_masked(is_hidden_RP, what)
                probs["clean"].append(items.pooled(clean.probabilities(seen_RD)))
                probs["masked"].append(items.pooled(masked.probabilities(masked_seen_RD)))
            points += [
                MaskedPoint(features=features, fit=fitted, pattern=pattern, ratio=ratio, prob_SNK=np.stack(found))
                for fitted, found in probs.items()
            ]
    return points


def sweep_head(features: ModelFeatures, plan: SweepPlan, items: Items, head: Head) -> list[MaskedPoint]:
    """Return the points of an existing head: fitted once, on what its file says."""
    points = _clean_points(features, head, features.evaluated, plan, items)
    for pattern in plan.settings.patterns:
        for ratio in (ratio for ratio in plan.ratios if ratio > 0):
            what = f"{features.name}, {pattern} {ratio:g}"
            found = [
                items.pooled(head.probabilities(features.evaluated(plan.masks(pattern, ratio, seed, plan.ids), what)))
                for seed in range(plan.seed, plan.seed + plan.settings.seeds)
            ]
            points.append(
                MaskedPoint(features=features, fit="clean", pattern=pattern, ratio=ratio, prob_SNK=np.stack(found))
            )
    return points


def _clean_points(
    features: Features, head: Head, evaluated: Callable[[Masks | None, str], States], plan: SweepPlan, items: Items
) -> list[MaskedPoint]:
    if 0 not in plan.ratios:
        return []
    found = items.pooled(head.probabilities(evaluated(None, f"{features.name}, unmasked")))
    return [MaskedPoint(features=features, fit="clean", pattern=None, ratio=0.0, prob_SNK=found[None])]
