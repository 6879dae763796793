"""GREEN from a judge's answers: the official parser with its failure modes, and a strict one that refuses.

``GREEN = m / (m + sum of the clinically significant errors a..f)``, 0 if no finding is matched (Ostmeier et al. 2024).
The official parser gives a number whatever the answer looks like: without the block of significant errors it finds
none, and the score is 1. The strict one gives None there.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

Parser = Literal["official", "strict"]

SIGNIFICANT, INSIGNIFICANT, MATCHED = (
    "Clinically Significant Errors",
    "Clinically Insignificant Errors",
    "Matched Findings",
)
KINDS = "abcdef"
_DIGITS = "123456"
_FIRST_COUNT = re.compile(r"(?<=: )\b\d+\b(?=\.)")
_MATCHED_COUNT = re.compile(r"^\b\d+\b(?=\.)")
_STRICT_LINE = re.compile(r"^\(([a-f1-6])\)[^\n]*?:\s*(\d+)(?:\.|\s*$)", re.MULTILINE)
_ANY_LINE = re.compile(r"^\(([a-f1-6])\)", re.MULTILINE)
_NONE = re.compile(
    r"(?:none|no (?:clinically )?(?:significant )?errors(?: found| identified| present)?|no matched findings)\.?",
    re.IGNORECASE,
)
_NEXT_HEADING = r"(?=\n\s*\[[A-Z][A-Za-z ]+\]:|\Z)"


@dataclass(frozen=True, kw_only=True, slots=True)
class Judgement:
    """What an answer says.

    Attributes:
        green: the score, or None if the parser refuses the answer.
        errors: significant errors of kinds a..f, or None.
        matched: matched findings, or None.
        problem: why there is no score: ``truncated`` (it ends before the matched findings) or what is garbled.
    """

    green: float | None
    errors: tuple[int, ...] | None = None
    matched: int | None = None
    problem: str | None = None


def judge(answer: str, parser: Parser) -> Judgement:
    """Return what an answer says, as one of the two parsers reads it."""
    return _official(answer) if parser == "official" else _strict(answer)


def green_score(errors: tuple[int, ...], matched: int) -> float:
    """Return GREEN of counts."""
    return 0.0 if matched == 0 else matched / (matched + sum(errors))


def _official(answer: str) -> Judgement:
    """Read an answer as the authors' published parser does, fault for fault; the rules are theirs, the code is ours.

    A block ends at its first empty line, counts need a full stop after them, a block that begins with ``No`` is
    empty, of two lines of a kind the last in sorted order with a count wins, a missing block is an empty one.
    """
    errors = _official_errors(_official_block(answer, SIGNIFICANT))
    block = _official_block(answer, MATCHED)
    found = None if block is None or block.startswith("No") else _MATCHED_COUNT.search(block)
    matched = int(found[0]) if found else 0
    return Judgement(green=green_score(errors, matched), errors=errors, matched=matched)


def _official_block(answer: str, heading: str) -> str | None:
    found = re.search(rf"\[{heading}\]:\s*(.*?)(?:\n\s*\n|\Z)", answer, re.DOTALL)
    return None if found is None else found[1]


def _official_errors(block: str | None) -> tuple[int, ...]:
    counts = [0] * len(KINDS)
    if block is None or block.startswith("No"):
        return tuple(counts)
    kinds = KINDS
    lines = sorted(re.findall(r"\([a-f]\) .*", block))
    if not lines:
        kinds = _DIGITS
        lines = sorted(re.findall(r"\([1-6]\) .*", block))
    for place, kind in enumerate(kinds):
        for line in lines:
            if line.startswith(f"({kind}) ") and (count := _FIRST_COUNT.search(line)):
                counts[place] = int(count[0])
    return tuple(counts)


def _strict(answer: str) -> Judgement:
    """Read an answer that is complete: both blocks, each kind of error once with a count, a count of the matched.

    An empty line inside a block does not end it. A block may also say in one line that there is nothing in it.
    """
    significant, block = _strict_block(answer, SIGNIFICANT), _strict_block(answer, MATCHED)
    if not block:
        return Judgement(green=None, problem="truncated: it ends before the matched findings")
    if significant is None:
        return Judgement(green=None, problem="no block of clinically significant errors")
    errors = _strict_errors(significant)
    if isinstance(errors, str):
        return Judgement(green=None, problem=errors)
    found = re.match(r"(\d+)(?:\.|\s*$)", block)
    if found is None and not _says_none(block):
        return Judgement(green=None, errors=errors, problem="matched findings without a count")
    matched = int(found[1]) if found else 0
    return Judgement(green=green_score(errors, matched), errors=errors, matched=matched)


def _strict_block(answer: str, heading: str) -> str | None:
    found = re.findall(rf"\[{heading}\]:[ \t]*\n?(.*?){_NEXT_HEADING}", answer, re.DOTALL)
    return found[0].strip() if len(found) == 1 else None


def _strict_errors(block: str) -> tuple[int, ...] | str:
    """Return the counts of the six kinds, or what is wrong."""
    lines = _ANY_LINE.findall(block)
    if not lines:
        return (0,) * len(KINDS) if _says_none(block) else "significant errors without a count"
    kinds = KINDS if lines[0] in KINDS else _DIGITS
    counted = _STRICT_LINE.findall(block)
    if sorted(lines) != list(kinds):
        return "not every kind of significant error once"
    if len(counted) < len(lines):
        return "a significant error without a count"
    by_kind = {kind: int(count) for kind, count in counted}
    return tuple(by_kind[kind] for kind in kinds)


def _says_none(block: str) -> bool:
    """Return whether a block says in one line that it is empty: ``None.``, ``No errors.``"""
    return _NONE.fullmatch(block.strip()) is not None
