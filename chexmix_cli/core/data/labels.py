"""Findings that data sets label, by the names and in the order they publish, and how a cell of a table becomes a label.

A label is 1 (present), 0 (absent), -1 (uncertain) or None (not stated). A blank cell is None, never 0.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

from chexmix_cli.core.errors import DataError, Reason

Label = int | None

NO_FINDING = "No Finding"

#: CheXpert, CheXpert Plus and the two label tables of MIMIC-CXR-JPG (there in another order).
CHEXPERT_FINDINGS: tuple[str, ...] = (
    NO_FINDING,
    "Enlarged Cardiomediastinum",
    "Cardiomegaly",
    "Lung Opacity",
    "Lung Lesion",
    "Edema",
    "Consolidation",
    "Pneumonia",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
    "Pleural Other",
    "Fracture",
    "Support Devices",
)

#: NIH ChestX-ray14. Where none of them is found, the table says ``No Finding``.
NIH_FINDINGS: tuple[str, ...] = (
    "Atelectasis",
    "Cardiomegaly",
    "Effusion",
    "Infiltration",
    "Mass",
    "Nodule",
    "Pneumonia",
    "Pneumothorax",
    "Consolidation",
    "Edema",
    "Emphysema",
    "Fibrosis",
    "Pleural_Thickening",
    "Hernia",
)

#: The five findings of the CheXpert competition: its score is the mean of their AUROCs.
COMPETITION_FINDINGS: tuple[str, ...] = ("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Pleural Effusion")

#: Sets of findings by the names that settings have for them.
FINDING_SETS: Mapping[str, tuple[str, ...]] = {
    "chexpert": CHEXPERT_FINDINGS,
    "nih": NIH_FINDINGS,
    "competition": COMPETITION_FINDINGS,
}

_VALUES = (1, 0, -1)
#: What tables and JSON files write where they have nothing. "None." with a stop is a radiologist's word, not theirs.
_BLANK = frozenset({"", "nan", "na", "n/a", "none", "null"})


def is_blank(text: str) -> bool:
    """Return whether a cell of a table, or a text that was made of one, says nothing: empty, or pandas' word for it."""
    return text.strip().lower() in _BLANK


def parse_label(cell: object, finding: str) -> Label:
    """Return the label that a cell of a table, or a JSON value, states.

    Args:
        cell: ``1.0``, ``-1``, blank, ``nan``, a number or None; tables written by pandas hold floats.
        finding: for the message.

    Raises:
        DataError: ``BAD_RECORD`` on everything else: a probability or a ``2`` is not rounded to a label.
    """
    text = "" if cell is None else str(cell).strip()
    if is_blank(text):
        return None
    try:
        number = float(text)
    except ValueError:
        number = math.inf
    if number not in _VALUES or isinstance(cell, bool):
        raise DataError(Reason.BAD_RECORD, f"label {finding!r} is {cell!r}", expected="1, 0, -1 or blank")
    return int(number)


def parse_labels(cells: Mapping[str, object], findings: Sequence[str]) -> dict[str, Label]:
    """Return the labels of those ``findings`` that the table has a column for, in their order."""
    return {finding: parse_label(cells[finding], finding) for finding in findings if finding in cells}


def listed_labels(present: Sequence[str], absent_is_zero: Collection[str]) -> dict[str, Label]:
    """Return the labels of an image whose table lists what is present.

    Args:
        present: findings named, label 1.
        absent_is_zero: findings that the table would name if they were there: not named, they are 0. Every other
            finding is left out: a list that does not name it says nothing about it.
    """
    named = dict.fromkeys(present, 1)
    return {**named, **{finding: 0 for finding in absent_is_zero if finding not in named}}
