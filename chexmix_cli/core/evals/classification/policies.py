"""What an uncertain label (-1), and one that is not stated, counts as. N images, K labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from chexmix_cli.core.data.labels import Label
from chexmix_cli.core.settings.classification import Policy

Unstated = Literal["ignore", "zeros"]

#: The mixed policy (as in CheXagent): what an uncertain label of these findings counts as; of others it is ignored.
MIXED: Mapping[str, float] = {
    "Atelectasis": 1.0,
    "Edema": 1.0,
    "Pleural Effusion": 1.0,
    "Effusion": 1.0,
    "Cardiomegaly": 0.0,
    "Consolidation": 0.0,
}


def policy_labels(
    labels: Sequence[Mapping[str, Label]], names: Sequence[str], policy: Policy, *, unstated: Unstated = "ignore"
) -> NDArray[np.float64]:
    """Return labels as numbers, (N, K) float64: 1, 0, or NaN where an image does not count for a label.

    Args:
        labels: of each image: 1 present, 0 absent, -1 uncertain, None or missing not stated.
        names: the K labels.
        policy: an uncertain label is left out (``ignore``), 0, 1, or by finding (``mixed``).
        unstated: a label that is not stated is left out, or 0.
    """
    uncertain: dict[str, float] = {
        name: {"ignore": np.nan, "zeros": 0.0, "ones": 1.0, "mixed": MIXED.get(name, np.nan)}[policy] for name in names
    }
    blank = 0.0 if unstated == "zeros" else np.nan

    def value(name: str, label: Label) -> float:
        return blank if label is None else uncertain[name] if label == -1 else float(label)

    rows = [[value(name, found.get(name)) for name in names] for found in labels]
    return np.array(rows, np.float64).reshape(len(labels), len(names))
