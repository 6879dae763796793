"""Labels of a manifest as targets: which findings, what uncertain ones count as, and how unequal classes are made even.

Shape letters: N images, L findings. Targets are 1 present, 0 absent, NaN not counted.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence

import torch
from torch import Tensor

from chexmix_cli.core.data.labels import finding_name, policy_labels
from chexmix_cli.core.data.manifest import ManifestRow
from chexmix_cli.core.errors import SettingsError, TrainingError
from chexmix_cli.core.settings.finetuning import LabelSettings

#: An image is shown at most this many times an epoch.
_MOST_REPEATS = 50


def choose_findings(rows: Sequence[ManifestRow], settings: LabelSettings) -> tuple[tuple[str, ...], list[str]]:
    """Return the findings to learn, and a remark for each that is left out.

    Args:
        rows: of the train split.
        settings: names, or none for every finding with both classes, in the order the rows first name them.

    Raises:
        SettingsError: if a finding asked for is in no row, or has one class only.
        TrainingError: if none was asked for and none has both classes.
    """
    known = list(dict.fromkeys(name for row in rows for name in row.labels))
    wanted = [name if name in known else finding_name(name) for name in settings.names]
    unknown = [name for name in wanted if name not in known]
    if unknown:
        near = difflib.get_close_matches(unknown[0], known, n=1)
        raise SettingsError(
            f"no row of split 'train' has the label {unknown[0]!r}",
            where="labels.names",
            expected=", ".join(known) or "labels in the manifest",
            hint=f"did you mean {near[0]!r}?" if near else None,
        )
    chosen, remarks = [], []
    for name in wanted or known:
        absent, present = class_counts(make_targets(rows, (name,), settings))
        if absent[0] > 0 and present[0] > 0:
            chosen.append(name)
            continue
        problem = f"{name!r} has {int(present[0])} present and {int(absent[0])} absent in split 'train'"
        if name in wanted:
            raise SettingsError(problem, where="labels.names", expected="both classes")
        remarks.append(f"{problem}: left out")
    if not chosen:
        raise TrainingError("no finding has both classes in split 'train'", where="labels")
    return tuple(chosen), remarks


def make_targets(rows: Sequence[ManifestRow], names: Sequence[str], settings: LabelSettings) -> Tensor:
    """Return the targets of rows, (N, L) float32."""
    labels = [row.labels for row in rows]
    return torch.from_numpy(policy_labels(labels, names, settings.uncertain, unstated=settings.unstated)).float()


def class_counts(target_NL: Tensor) -> tuple[Tensor, Tensor]:
    """Return how many images each finding is absent and present in, both (L,) float32."""
    return (target_NL == 0).sum(dim=0).float(), (target_NL == 1).sum(dim=0).float()


def present_weights(target_NL: Tensor) -> Tensor:
    """Return absent / present of each finding, (L,): so weighed, both classes count alike in the loss."""
    absent_L, present_L = class_counts(target_NL)
    return absent_L / present_L


def repeats(target_NL: Tensor) -> list[int]:
    """Return how often each image is shown an epoch, so that rarer classes are seen as often as common ones.

    An image's number is that of the rarest class it is in: the other class's count over its own, rounded, at least 1
    and at most ``_MOST_REPEATS``. With one finding both classes are then shown equally often, up to rounding.

    Source: the repeat factors of Gupta et al. 2019 (LVIS), over both classes instead of the square root of a threshold.
    """
    absent_L, present_L = class_counts(target_NL)
    factor_NL = torch.where(target_NL == 1, absent_L / present_L, present_L / absent_L)
    factor_NL = factor_NL.masked_fill(target_NL.isnan(), 1.0)
    return [min(_MOST_REPEATS, max(1, round(value))) for value in factor_NL.max(dim=1).values.tolist()]


def log_odds(target_NL: Tensor) -> Tensor:
    """Return log(present / absent) of each finding, (L,)."""
    absent_L, present_L = class_counts(target_NL)
    return (present_L / absent_L).log()
