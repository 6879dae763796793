"""The images a probe is most wrong and most right about, for the page."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from chexmix_cli.core.data.labels import policy_labels
from chexmix_cli.core.data.manifest import ManifestRow
from chexmix_cli.core.evals.classification.items import Items, Scored
from chexmix_cli.core.evals.result import Case
from chexmix_cli.core.settings.classification import EvaluateClassificationSettings


def cases_of(
    items: Items,
    rows: Sequence[ManifestRow],
    scored: Scored,
    settings: EvaluateClassificationSettings,
    picture: Callable[[ManifestRow], bytes | None],
) -> list[Case]:
    """Return the items whose one label is furthest from its probability, and those of the surest hits.

    Args:
        items: what was scored.
        rows: their images.
        scored: probabilities.
        settings: policies, and how many cases.
        picture: gives PNG bytes of a row's image, or None.
    """
    label_NK = policy_labels(items.labels, scored.names, settings.labels.evaluate[0], unstated=settings.labels.unstated)
    gap_NK = np.abs(scored.prob_NK - label_NK)
    worst_NK = np.where(np.isnan(gap_NK), -1.0, gap_NK)
    # A hit is a finding that is present: most images are right about most absent ones.
    hit_NK = np.where(label_NK == 1, scored.prob_NK, -1.0)
    groups = (("furthest from the label", worst_NK), ("surest hits", hit_NK))
    return [
        _case(items, rows, scored, item, label, int(label_NK[item, label]), group, picture)
        for group, value_NK in groups
        for item, label in _highest(value_NK, settings.cases)
    ]


def _highest(value_NK: np.ndarray, most: int) -> list[tuple[int, int]]:
    """Return item and label of the highest values, each item once; -1 is not a value."""
    if not value_NK.size:
        return []
    best_N = value_NK.argmax(axis=1)
    height_N = value_NK.max(axis=1)
    order = [int(item) for item in np.argsort(-height_N, kind="stable") if height_N[item] >= 0]
    return [(item, int(best_N[item])) for item in order[:most]]


def _case(
    items: Items,
    rows: Sequence[ManifestRow],
    scored: Scored,
    item: int,
    label: int,
    truth: int,
    group: str,
    picture: Callable[[ManifestRow], bytes | None],
) -> Case:
    row = rows[items.members[item][0]]
    present = [name for name in scored.names if items.labels[item].get(name) == 1]
    drawn = picture(row)
    return Case(
        id=items.ids[item],
        group=group,
        texts={
            scored.names[label]: f"label {truth}, probability {scored.prob_NK[item, label]:.3f}",
            "labels present": ", ".join(present) or "none",
        },
        pictures={} if drawn is None else {"radiograph": drawn},
    )
