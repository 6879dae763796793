"""Print how far the report labeller agrees with the labels that people gave the Open-i reports.

Those labels are index terms of the main findings, not a list of all: a finding in the text may have none. "Uncertain"
reports are counted apart. Nothing of the reports is shown or kept.

Usage: python tools/measure_labeller.py ../shared/data/reports/iu_reports.jsonl
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from chexmix_cli.core.text.labeller import label_report

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


def main(path: Path) -> None:
    """Print a row for each finding."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    rows = [row for row in rows if row["report"]]
    read = [label_report(row["report"], TERMS) for row in rows]
    print("finding           both  ours only  theirs only  uncertain  precision  recall")
    for finding, terms in TERMS.items():
        theirs = [bool(terms & {term.split("/")[0] for term in row["labels"] or ()}) for row in rows]
        ours = [labels[finding] for labels in read]
        pairs = list(zip(ours, theirs, strict=True))
        both = sum(one == 1 and other for one, other in pairs)
        alone = sum(one == 1 and not other for one, other in pairs)
        missed = sum(one not in (1, -1) and other for one, other in pairs)
        precision, recall = both / max(1, both + alone), both / max(1, both + missed)
        counts = f"{both:5}  {alone:9}  {missed:11}  {ours.count(-1):9}"
        print(f"{finding:16} {counts}  {precision:9.3f}  {recall:6.3f}")
    print(f"{len(rows)} reports")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
