"""What the head of findings says of a film beside the report on it, and where the two, or the report itself, conflict.

Both read the same states of the same pass. The head counts a finding as present from its own threshold on, and is in
doubt where its odds are within a factor of three of the threshold's. It may object to a report only where validation
showed that it tells the finding at all: its AUROC's interval is above 0.5.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from chexmix_cli.core.text.consistency import Agreement, compare_findings, find_contradictions
from chexmix_cli.core.text.header import CAUSE_PHRASES, Header

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from chexmix_cli.core.infer.classification.heads import Head

#: What a head's AUROC is by chance.
_CHANCE = 0.5
#: Odds nearer to the threshold's than this, either way, are in doubt: of 200 validation films 87 have a conflict
#: without this bound, and 51 have one with it (docs/classification.md).
_DOUBT = 3.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Opinion:
    """What a head says of one finding, and how a report stands to it.

    Attributes:
        probability: of the finding.
        threshold: from which it counts as present.
        auroc: in validation, or None if that was not measured.
        is_proven: the head may object: validation shows that it tells the finding, or there was none.
        agreement: of the report with it.
    """

    probability: float
    threshold: float
    auroc: float | None
    is_proven: bool
    agreement: Agreement

    @property
    def is_present(self) -> bool:
        """Return whether the head counts the finding as present."""
        return self.probability >= self.threshold

    @property
    def is_conflict(self) -> bool:
        """Return whether a person should be told."""
        return self.agreement is Agreement.CONFLICTS and self.is_proven


@dataclass(frozen=True, slots=True)
class SecondOpinion:
    """A report beside the head, and beside itself.

    Attributes:
        opinions: finding to what the head says of it; empty without a head.
        contradictions: what the report says against itself, in words.
    """

    opinions: Mapping[str, Opinion] = field(default_factory=dict)
    contradictions: tuple[str, ...] = ()

    @property
    def conflicts(self) -> list[str]:
        """Return a sentence for each conflict, the report's with itself first."""
        found = [f"the report contradicts itself ({one})" for one in self.contradictions]
        for name, opinion in self.opinions.items():
            if opinion.is_conflict:
                head, report = ("present", "denies it") if opinion.is_present else ("absent", "states it")
                numbers = f"{opinion.probability:.2f}, present from {opinion.threshold:.2f}"
                found.append(f"{name}: {head} by the classifier ({numbers}), but the report {report}")
        return found

    def fields(self) -> dict[str, Any]:
        """Return what a record says of it, nothing where there is nothing to say."""
        record: dict[str, Any] = {}
        if self.opinions:
            known = {name: one.auroc for name, one in self.opinions.items() if one.auroc is not None}
            record["head"] = {
                "probabilities": {name: one.probability for name, one in self.opinions.items()},
                "threshold": {name: one.threshold for name, one in self.opinions.items()},
                **({"val_auroc": known} if known else {}),
                "agreement": {name: one.agreement.value for name, one in self.opinions.items()},
            }
        return record | ({"contradictions": list(self.contradictions)} if self.contradictions else {})


def second_opinion(
    text: str | None, header: Header, head: Head | None, probability_K: NDArray[np.floating[Any]] | None
) -> SecondOpinion:
    """Return what a head says of the findings of a film, and how the report on it stands to that.

    A film of an adult has no bacterial or viral cause for the head to be right about: those are labels of children's
    films.

    Args:
        text: the report; None is silent.
        header: what is known of the film.
        head: gave the probabilities.
        probability_K: of each of its labels; None without a head.
    """
    contradictions = tuple(map(str, find_contradictions(text or "")))
    if head is None or probability_K is None:
        return SecondOpinion({}, contradictions)
    outside = CAUSE_PHRASES if header.age_group == "adult" else ()
    probabilities = dict(zip(head.labels, map(float, probability_K), strict=True))
    thresholds = dict(zip(head.labels, map(float, head.threshold_K), strict=True))
    calls = {
        name: None if name in outside or _is_in_doubt(value, thresholds[name]) else int(value >= thresholds[name])
        for name, value in probabilities.items()
    }
    agreements = compare_findings(text or "", calls)
    return SecondOpinion(
        {
            name: Opinion(
                probability=probability,
                threshold=thresholds[name],
                auroc=head.validation[name].auroc if name in head.validation else None,
                is_proven=_is_proven(head, name),
                agreement=agreements.get(name, Agreement.SILENT),
            )
            for name, probability in probabilities.items()
        },
        contradictions,
    )


def _is_in_doubt(probability: float, threshold: float) -> bool:
    # Without a division: a probability may be 1.
    one, other = probability * (1 - threshold), threshold * (1 - probability)
    return one < _DOUBT * other and other < _DOUBT * one


def _is_proven(head: Head, name: str) -> bool:
    if not head.validation:
        return True
    known = head.validation.get(name)
    return known is not None and known.interval is not None and known.interval[0] > _CHANCE
