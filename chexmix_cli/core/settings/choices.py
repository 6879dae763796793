"""Words that several commands' settings share, each with its one definition."""

from __future__ import annotations

from typing import Literal

#: Which image positions are hidden (core/infer/position_masks.py).
Pattern = Literal["random", "block", "border"]
#: What of a report is read: a section, or both: all but indication, comparison, technique and notification.
Section = Literal["both", "findings", "impression"]
#: What an uncertain label counts as, and one that is not stated (core/data/labels.py: policy_labels).
Policy = Literal["ignore", "zeros", "ones", "mixed"]
Unstated = Literal["ignore", "zeros"]
#: How the images of a study become one probability; ``one``: images are scored, not studies.
StudyScore = Literal["one", "max", "mean"]
