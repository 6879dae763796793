"""What is scored in classification: images or studies, their labels, and probabilities of each. N items, K labels."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from chexmix_cli.core.data.labels import FINDING_SETS, Label, finding_name
from chexmix_cli.core.data.manifest import ManifestRow
from chexmix_cli.core.evals.metrics.binary import Floats
from chexmix_cli.core.evals.metrics.bootstrap import group_numbers
from chexmix_cli.core.settings.choices import Policy, StudyScore
from chexmix_cli.core.settings.classification import OperatingPoint


@dataclass(frozen=True, kw_only=True, slots=True)
class Items:
    """Images, or studies.

    Attributes:
        ids: of the image, or of the study's first one.
        groups_N: patient of each.
        labels: of each; of a study the strongest of its images (present, uncertain, absent, not stated).
        members: indices of each item's images among the rows.
        study: how a study's images are put together; ``one``: items are images.
    """

    ids: list[str]
    groups_N: NDArray[np.int64]
    labels: list[Mapping[str, Label]]
    members: list[list[int]]
    study: StudyScore

    def pooled(self, prob_RK: Floats) -> Floats:
        """Return probabilities of items, (N, K), of those of images (R, K)."""
        pool = np.mean if self.study == "mean" else np.max
        return np.stack([pool(prob_RK[member], axis=0) for member in self.members])


@dataclass(frozen=True, kw_only=True, slots=True)
class Scored:
    """Probabilities of one probe, or of one file.

    Attributes:
        names: the K labels.
        prob_NK: of the items.
        threshold_K: from which a finding counts as present, chosen on train rows; None where there is none.
        at: operating point that is asked for, or None.
        at_K: from which a finding counts as present there, NaN where that is not known; None where there is none.
        fit: policy of the labels it was fitted on, or None where that is not known.
        fields: what else decides the numbers: features, rows fitted on.
        absent: labels that it has no probabilities for, with the reason.
    """

    names: Sequence[str]
    prob_NK: Floats
    threshold_K: Floats | None
    fit: Policy | None
    fields: Mapping[str, str]
    absent: Mapping[str, str]
    at: OperatingPoint | None = None
    at_K: Floats | None = None


def items_of(rows: Sequence[ManifestRow], study: StudyScore) -> Items:
    """Return the items of rows; a row without a study is a study of its own."""
    keys = [row.id if study == "one" or row.study is None else (row.patient, row.study) for row in rows]
    members: dict[object, list[int]] = {}
    for place, key in enumerate(keys):
        members.setdefault(key, []).append(place)
    firsts = [rows[member[0]] for member in members.values()]
    return Items(
        ids=[row.id for row in firsts],
        groups_N=group_numbers([row.patient for row in firsts]),
        labels=[merged_labels([rows[place].labels for place in member]) for member in members.values()],
        members=list(members.values()),
        study=study,
    )


def merged_labels(labels: Sequence[Mapping[str, Label]]) -> dict[str, Label]:
    """Return the strongest label of each finding: present, else uncertain, else absent, else not stated."""
    strength = {1: 3, -1: 2, 0: 1, None: 0}
    names = dict.fromkeys(name for found in labels for name in found)
    return {name: max((found.get(name) for found in labels), key=strength.__getitem__) for name in names}


def label_names(wanted: Sequence[str], labels: Sequence[Mapping[str, Label]]) -> list[str]:
    """Return the findings that settings name, sets spelled out, each once.

    Args:
        wanted: findings, names of ``FINDING_SETS``, or ``all``.
        labels: what ``all`` takes its findings from: those of CheXpert first, then of NIH, each in their order, then
            the others by name.
    """
    present = dict.fromkeys(name for found in labels for name in found)
    known = [name for finding_set in FINDING_SETS.values() for name in finding_set if name in present]
    every = [*known, *sorted(set(present) - set(known))]
    spelled = [FINDING_SETS.get(name, every if name == "all" else (_spelled(name, present),)) for name in wanted]
    return list(dict.fromkeys(name for names in spelled for name in names))


def _spelled(name: str, present: Collection[str]) -> str:
    return name if name in present else finding_name(name)


def drawn_rows(rows: Sequence[ManifestRow], most: int, seed: int) -> list[ManifestRow]:
    """Return the rows of patients drawn until another one's would be too many, in order; all if ``most`` is 0."""
    if not most or len(rows) <= most:
        return list(rows)
    group_N = group_numbers([row.patient for row in rows])
    counts_G = np.bincount(group_N)
    order_G = np.random.default_rng(seed).permutation(len(counts_G))
    is_kept_G = np.zeros(len(counts_G), bool)
    is_kept_G[order_G[np.cumsum(counts_G[order_G]) <= most]] = True
    return [row for row, group in zip(rows, group_N, strict=True) if is_kept_G[group]]
