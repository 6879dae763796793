"""Print how far the report labeller agrees with the labels that people gave the Open-i reports, and how fast it is.

Those labels are index terms of the main findings, not a list of all: a finding in the text may have none. "Uncertain"
reports are counted apart and are in neither precision nor recall. Nothing of the reports is kept; their text is shown
only where ``--disagreements`` asks for it, sentence by sentence, to be read by eye.

Usage: python tools/measure_labeller.py ../shared/data/reports/iu_reports.jsonl [--disagreements FINDING]
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from chexmix_cli.core.text.labelling.finding_patterns import FINDINGS
from chexmix_cli.core.text.labelling.labeller import find_mentions, label_report, labelled_text, sentences

#: Finding of ours to the heads of their index terms.
TERMS = {
    "Cardiomegaly": {"Cardiomegaly"},
    "Lung Opacity": {"Opacity", "Airspace Disease", "Infiltrate"},
    "Infiltration": {"Infiltrate"},
    "Edema": {"Pulmonary Edema", "Pulmonary Congestion", "Heart Failure"},
    "Consolidation": {"Consolidation"},
    "Pneumonia": {"Pneumonia"},
    "Atelectasis": {"Pulmonary Atelectasis"},
    "Pneumothorax": {"Pneumothorax", "Hydropneumothorax"},
    "Pleural Effusion": {"Pleural Effusion"},
    "Fracture": {"Fractures, Bone"},
    "Emphysema": {"Emphysema", "Pulmonary Emphysema"},
    "Hernia": {"Hernia, Hiatal"},
    "Nodule": {"Nodule"},
    "Mass": {"Mass"},
}


def main(path: Path, finding: str | None) -> None:
    """Print a row for each finding, or the disagreements on one."""
    with path.open(encoding="utf-8", newline="\n") as lines:
        rows = [row for row in map(json.loads, lines) if row["report"]]
    started = time.process_time()
    read = [label_report(row["report"], TERMS) for row in rows]
    seconds = time.process_time() - started
    if finding is not None:
        _print_disagreements(rows, read, finding)
        return
    print("finding           both  ours only  theirs only  uncertain  precision  recall     F1")
    for name in TERMS:
        _print_row(name, [labels[name] for labels in read], [_is_theirs(row, name) for row in rows])
    print(f"{len(rows)} reports, {1000 * seconds / len(rows):.2f} ms of processor time a report")


def _is_theirs(row: Mapping[str, Any], finding: str) -> bool:
    return bool(TERMS[finding] & {term.split("/")[0] for term in row["labels"] or ()})


def _print_row(finding: str, ours: Sequence[int | None], theirs: Sequence[bool]) -> None:
    pairs = list(zip(ours, theirs, strict=True))
    both = sum(one == 1 and other for one, other in pairs)
    alone = sum(one == 1 and not other for one, other in pairs)
    missed = sum(one not in (1, -1) and other for one, other in pairs)
    precision, recall = both / max(1, both + alone), both / max(1, both + missed)
    f1 = 2 * both / max(1, 2 * both + alone + missed)
    counts = f"{both:5}  {alone:9}  {missed:11}  {ours.count(-1):9}"
    print(f"{finding:16} {counts}  {precision:9.3f}  {recall:6.3f}  {f1:5.3f}")


def _print_disagreements(
    rows: Sequence[Mapping[str, Any]], read: Sequence[Mapping[str, int | None]], finding: str
) -> None:
    """Print the study, both labels, their terms and the sentences that name the finding, where the labels differ."""
    for row, labels in zip(rows, read, strict=True):
        is_theirs = _is_theirs(row, finding)
        if labels[finding] == -1 or (labels[finding] == 1) == is_theirs:
            continue
        print(f"{row['study']}: ours {labels[finding]}, theirs {int(is_theirs)}: {'; '.join(row['labels'] or ())}")
        for sentence in sentences(labelled_text(row["report"])):
            said = [one.label for one in find_mentions(sentence) if one.concept in FINDINGS[finding]]
            if said:
                print(f"    {said} {sentence}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reports", type=Path, help="iu_reports.jsonl")
    parser.add_argument("--disagreements", choices=TERMS, metavar="FINDING", help="show these instead of the table")
    given = parser.parse_args()
    main(given.reports, given.disagreements)
