"""The reports of a manifest: which sections there are, what stands in for words, which reports repeat each other."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chexmix_cli.core.data.checks.report_twins import near_twins, normal_words, word_groups
from chexmix_cli.core.data.labels import is_blank
from chexmix_cli.core.data.manifest import ManifestRow
from chexmix_cli.core.settings.datasets import ReportCheckSettings

#: What de-identification leaves: name to what it looks like.
_PLACEHOLDERS: Mapping[str, re.Pattern[str]] = {
    "___": re.compile(r"_{2,}"),
    "XXXX": re.compile(r"X{3,}"),
    "[...]": re.compile(r"\[\*\*.*?\*\*\]|<[A-Z_]{2,}>"),
}


class ReportTally:
    """Counts sections and repetitions; a report that several images of a study share is one.

    Args:
        settings: how near is a near-duplicate.
        examples: how many of each are named.
    """

    def __init__(self, settings: ReportCheckSettings, examples: int) -> None:
        self._settings, self._few = settings, examples
        self._sections: Counter[str] = Counter()
        self._placeholders: Counter[str] = Counter()
        self._digest_of_study: dict[str, bytes] = {}
        self._conflicts: dict[str, None] = {}
        self._not_texts: list[str] = []
        self._first_of: dict[bytes, int] = {}
        self._names: list[str] = []
        self._groups: list[NDArray[np.uint32]] = []
        self._lengths: list[int] = []
        self._repeats: Counter[int] = Counter()

    def add(self, row: ManifestRow) -> None:
        """Count the sections of a row, and its report if the study's was not met yet."""
        texts = {"findings": row.findings or "", "impression": row.impression or ""}
        if any(text.strip() and is_blank(text) for text in texts.values()):
            self._not_texts.append(row.id)
        stated = [name for name, text in texts.items() if not is_blank(text)]
        self._sections[" and ".join(stated) or "none"] += 1
        report = row.report
        if not stated or report is None:
            return
        study, digest = row.study or row.id, hashlib.sha256(report.encode()).digest()
        known = self._digest_of_study.setdefault(study, digest)
        if known is digest:
            self._add_report(study, report)
        elif known != digest:
            self._conflicts[study] = None

    def _add_report(self, study: str, report: str) -> None:
        for name, pattern in _PLACEHOLDERS.items():
            self._placeholders[name] += pattern.search(report) is not None
        words = normal_words(report)
        key = hashlib.sha256(" ".join(words).encode()).digest()
        first = self._first_of.setdefault(key, len(self._names))
        if first < len(self._names):
            self._repeats[first] += 1
            return
        self._names.append(study)
        self._groups.append(word_groups(words))
        self._lengths.append(len(words))

    @property
    def conflicts(self) -> tuple[int, list[str]]:
        """Return how many studies have images with different reports, and the first of them."""
        return len(self._conflicts), list(self._conflicts)[: self._few]

    @property
    def not_texts(self) -> tuple[int, list[str]]:
        """Return how many rows have a section that is a table's word for nothing, and the first of them."""
        return len(self._not_texts), self._not_texts[: self._few]

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as plain values; ``studies`` are those with a report."""
        lengths = sorted(self._lengths)
        most = sorted(self._repeats.items(), key=lambda item: (-item[1], item[0]))[: self._few]
        repeated = sum(self._repeats.values())
        return {
            "rows_with": dict(sorted(self._sections.items())),
            "studies": len(self._names) + repeated,
            "different": len(self._names),
            "repeated": {
                "count": repeated,
                "examples": [{"study": self._names[index], "times": count + 1} for index, count in most],
            },
            "near_duplicates": self._near_duplicates(),
            "placeholders": {name: count for name, count in self._placeholders.items() if count},
            "words": {"median": lengths[len(lengths) // 2], "most": lengths[-1]} if lengths else None,
        }

    def _near_duplicates(self) -> dict[str, Any]:
        usable = [index for index, length in enumerate(self._lengths) if length >= self._settings.short_words]
        twins = sorted(near_twins([self._groups[index] for index in usable], self._settings.near_share))
        examples = [
            {"studies": [self._names[usable[head]], self._names[usable[index]]], "share": round(share, 3)}
            for index, head, share in twins[: self._few]
        ]
        return {"count": len(twins), "examples": examples}
