"""What a record says of findings by number, and the codes that findings have in documents.

A finding has a code of DICOM PS3.16 where one means what the label means: those may be used without a licence, which
SNOMED CT as a whole may not everywhere. Every other finding has its own name as a code of this programme.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from chexmix_cli.core.text.header import CAUSE_PHRASES

#: Designator of codes that are ours (PS3.16 8.2: 99 begins a local scheme).
LOCAL_SCHEME = "99CHEXMIX"

Code = tuple[str, str, str]

#: Finding (``core/data/labels.py``) -> code of PS3.16: value, scheme, meaning.
_CODES: Mapping[str, Code] = {
    "Edema": ("19242006", "SCT", "Pulmonary edema"),
    "Effusion": ("60046008", "SCT", "Pleural effusion"),
    "Infiltration": ("112121", "DCM", "Infiltrate"),
    "Lung Opacity": ("112001", "DCM", "Opacity"),
    "Mass": ("4147007", "SCT", "Mass"),
    "Nodule": ("27925004", "SCT", "Nodule"),
    "Pleural Effusion": ("60046008", "SCT", "Pleural effusion"),
    "Pneumothorax": ("36118008", "SCT", "Pneumothorax"),
}


@dataclass(frozen=True, slots=True)
class FindingScore:
    """One finding by number.

    Attributes:
        name: of the label.
        probability: of the finding, 0 to 1.
        threshold: from which it counts as present; None where the record does not say.
    """

    name: str
    probability: float
    threshold: float | None

    @property
    def code(self) -> Code:
        """Return value, scheme and meaning of its code."""
        return _CODES.get(self.name, (self.name, LOCAL_SCHEME, self.name.replace("_", " ")))

    @property
    def is_present(self) -> bool | None:
        """Return whether it counts as present; None without a threshold."""
        return None if self.threshold is None else self.probability >= self.threshold


def finding_scores(record: Mapping[str, Any]) -> list[FindingScore]:
    """Return the findings of a record of ``generate-report`` (under ``head``) or ``classify``, in its order.

    Of an adult's film the causes of a pneumonia are left out: children's films alone are labelled with them.
    """
    head = record.get("head", record)
    thresholds = head.get("threshold") or {}
    outside = CAUSE_PHRASES if record.get("age_group") == "adult" else ()
    return [
        FindingScore(name, float(value), None if thresholds.get(name) is None else float(thresholds[name]))
        for name, value in (head.get("probabilities") or {}).items()
        if name not in outside
    ]
