"""Findings that data sets label, by the names and in the order they publish, and how a cell of a table becomes a label.

A label is 1 (present), 0 (absent), -1 (uncertain) or None (not stated). A blank cell is None, never 0. A finding has
one name here, however a data set spells it: :func:`finding_name`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from chexmix_cli.core.data.lines import quoted, quoted_name
from chexmix_cli.core.errors import DataError, Reason
from chexmix_cli.core.settings.choices import Policy, Unstated

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

#: Other spellings of the same findings, in small letters and single blanks. Only what means the same stands here: NIH's
#: "Effusion" and CheXpert's "Pleural Effusion" are labels of their own, as VinDr's "Nodule/Mass" is.
_SPELLINGS: Mapping[str, str] = {
    # CheXpert's first release and the first version of MIMIC-CXR.
    "airspace opacity": "Lung Opacity",
    # NIH's table of boxes.
    "infiltrate": "Infiltration",
    # PadChest and BIMCV; VinDr has the fibrosis.
    "infiltrates": "Infiltration",
    "normal": NO_FINDING,
    "pulmonary edema": "Edema",
    "pulmonary fibrosis": "Fibrosis",
    "pulmonary mass": "Mass",
}
_NAMES: Mapping[str, str] = {
    **_SPELLINGS,
    **{name.lower().replace("_", " "): name for name in (*CHEXPERT_FINDINGS, *NIH_FINDINGS)},
}
_SEPARATORS = re.compile(r"[\s_-]+")

_VALUES = (1, 0, -1)
_WORDS: Mapping[str, str] = {"true": "1", "false": "0"}
#: What tables and JSON files write where they have nothing. "None." with a stop is a radiologist's word, not theirs.
_BLANK = frozenset({"", "nan", "na", "n/a", "none", "null"})

#: The mixed policy (as in CheXagent): what an uncertain label of these findings counts as; of others it is ignored.
MIXED: Mapping[str, float] = {
    "Atelectasis": 1.0,
    "Edema": 1.0,
    "Pleural Effusion": 1.0,
    "Effusion": 1.0,
    "Cardiomegaly": 0.0,
    "Consolidation": 0.0,
}


def is_blank(text: str) -> bool:
    """Return whether a cell of a table, or a text that was made of one, says nothing: empty, or pandas' word for it."""
    return text.strip().lower() in _BLANK


@lru_cache(maxsize=4096)
def finding_name(name: str) -> str:
    """Return the name that a finding has here, in whatever case and with whatever between its words it is spelled.

    A finding that is none of CheXpert's or NIH's keeps its name.
    """
    return _NAMES.get(_SEPARATORS.sub(" ", name.strip().lower()), name.strip())


def named_labels(labels: Iterable[tuple[str, object]]) -> dict[str, Label]:
    """Return labels under the names that findings have here.

    Raises:
        DataError: ``BAD_RECORD`` on a value that is no label, or if two spellings of a finding contradict each other.
    """
    found: dict[str, Label] = {}
    for spelled, cell in labels:
        name, label = finding_name(spelled), parse_label(cell, spelled)
        if found.get(name) is None:
            found[name] = label
        elif label not in (None, found[name]):
            raise DataError(
                Reason.BAD_RECORD,
                f"label {quoted_name(spelled)} contradicts {name!r}",
                expected="one value of a finding",
            )
    return found


def parse_label(cell: object, finding: str) -> Label:
    """Return the label that a cell of a table, or a JSON value, states.

    Args:
        cell: ``1``, ``1.0``, ``"1"``, true, blank, ``nan`` or None: JSON has one kind of number, and pandas writes
            floats and booleans.
        finding: for the message.

    Raises:
        DataError: ``BAD_RECORD`` on everything else: a probability or a ``2`` is not rounded to a label.
    """
    text = "" if cell is None else str(cell).strip()
    if is_blank(text):
        return None
    try:
        number = float(_WORDS.get(text.lower(), text))
    except ValueError:
        number = math.inf
    if number not in _VALUES:
        what = f"label {quoted_name(finding)} is {quoted(cell)}"
        raise DataError(Reason.BAD_RECORD, what, expected="1, 0, -1 or blank")
    return int(number)


def parse_labels(cells: Mapping[str, object], findings: Sequence[str]) -> dict[str, Label]:
    """Return the labels of those ``findings`` that the table has a column for, in any spelling, in their order."""
    wanted = {finding_name(finding): None for finding in findings}
    stated = named_labels((column, cell) for column, cell in cells.items() if finding_name(column) in wanted)
    return {finding: stated[finding] for finding in wanted if finding in stated}


def listed_labels(present: Sequence[str], absent_is_zero: Collection[str]) -> dict[str, Label]:
    """Return the labels of an image whose table lists what is present.

    Args:
        present: findings named, label 1.
        absent_is_zero: findings that the table would name if they were there: not named, they are 0. Every other
            finding is left out: a list that does not name it says nothing about it.
    """
    stated = {finding_name(finding) for finding in present}
    absent = {finding: 0 for finding in absent_is_zero if finding_name(finding) not in stated}
    return {**dict.fromkeys(present, 1), **absent}


def policy_labels(
    labels: Sequence[Mapping[str, Label]], names: Sequence[str], policy: Policy, *, unstated: Unstated = "ignore"
) -> NDArray[np.float64]:
    """Return labels as numbers, (N, K) float64: 1, 0, or NaN where one of N images or reports does not count for one.

    Args:
        labels: of each: 1 present, 0 absent, -1 uncertain, None or missing not stated.
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
