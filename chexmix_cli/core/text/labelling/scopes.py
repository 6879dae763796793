"""What a sentence says of a phrase in it: stated, denied, doubted or only spoken of, by the words around it.

The method is that of NegEx (Chapman et al., J Biomed Inform 34:301, 2001) and ConText (Harkema et al., J Biomed Inform
42:839, 2009): trigger phrases with a meaning and a direction, phrases that look like a trigger and are none, and words
that end a trigger's scope. As in ConText the longest of overlapping triggers counts. That each mention is stated,
denied or doubted follows the labeller of CheXpert (Irvin et al., AAAI 2019); that syntax decides how far a trigger
reaches follows NegBio (Peng et al., AMIA Summits 2018), here without a parser: a comma, an "and" or a "with" is looked
at from both sides for a verb, an "or", an article, a word of size, side or severity.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum
from functools import cache, cached_property

from chexmix_cli.core.text.labelling import denial_patterns as words
from chexmix_cli.core.text.labelling.denial_patterns import ABSENT, PRESENT, SPOKEN_OF, UNCERTAIN

Span = tuple[int, int]

#: Words between a phrase and the trigger behind it.
_MOST_WORDS_BETWEEN = 12
#: Characters that are looked at behind a phrase or a junction: a text without an end to its sentences stays quick.
_FARTHEST = 300
_LIST_WORD = re.compile(r"\b(?:or|nor)\b|(?<=[a-z])/(?=[a-z])")
_JUNCTION = re.compile(
    r" ?, ?(?:(?:and|with|or|nor)\b ?)?| (?:and|&|(?<!compatible )(?<!consistent )(?<!associated )(?<!keeping )with) "
)
_CLAUSE = re.compile(r"[^.,;|]*")
#: What joins a trigger behind to its phrase: "pneumothorax - absent", "(none)", "is difficult to exclude".
_JOINT = re.compile(r"(?:[ :=\-(\[,?|/]|\b(?:is|are|was|were|remains?) )+\Z")


class Reach(Enum):
    """Whether a trigger's scope goes as far as a phrase."""

    YES = "yes"
    NO = "no"
    PERHAPS = "perhaps"


class Direction(Enum):
    """Where a trigger's scope lies."""

    FORWARD = "forward"
    BACKWARD = "backward"
    NOWHERE = "nowhere"


@dataclass(frozen=True, slots=True)
class Trigger:
    """A phrase that changes what is said of another.

    Attributes:
        label: what it makes of a phrase: ``ABSENT``, ``UNCERTAIN`` or ``SPOKEN_OF``.
        direction: ``NOWHERE`` for a phrase that only looks like a trigger.
        start, end: where it stands in its sentence.
        is_short: a comma or "with" ends its scope, unless a list with "and" goes on.
    """

    label: int | None
    direction: Direction
    start: int
    end: int
    is_short: bool = False


@dataclass(frozen=True, slots=True)
class Scope:
    """Where a trigger that looks forward makes its label of the phrases that start there.

    Attributes:
        label: as of the trigger.
        start, end: from the trigger's end to where another statement begins.
        sure_end: from here on a statement may have begun.
    """

    label: int | None
    start: int
    sure_end: int
    end: int


@dataclass(frozen=True, slots=True)
class Junction:
    """A comma, an "and" or a "with": a list goes on behind it, or a statement begins.

    Attributes:
        start, end: where it stands in its sentence.
        opens: whether the first words behind it begin a statement.
        is_stated: the words behind it have a verb.
        is_seen: the words behind a comma end with "is seen": a statement, unless they are the last of a longer list.
        goes_on: an "or" says that the list goes on, whatever else.
        joins: it is no bare comma and no "with", or an "and" or "or" follows in the same list.
    """

    start: int
    end: int
    opens: Reach
    is_stated: bool
    is_seen: bool
    goes_on: bool
    joins: bool


class Scopes:
    """The triggers of one sentence and how far each reaches.

    Args:
        text: a sentence, in lower case, its words parted by single spaces.
        mentions: where the phrases stand that name something, in order.
    """

    def __init__(self, text: str, mentions: Sequence[Span]) -> None:
        self._text = text
        self._mentions = mentions

    @cached_property
    def _triggers(self) -> list[Trigger]:
        return _find_triggers(self._text)

    @cached_property
    def _forward(self) -> list[Trigger]:
        return [trigger for trigger in self._triggers if trigger.direction is Direction.FORWARD]

    @cached_property
    def _forward_starts(self) -> set[int]:
        return {trigger.start for trigger in self._forward}

    @cached_property
    def _backward(self) -> list[Trigger]:
        return [self._with_joint(trigger) for trigger in self._triggers if trigger.direction is Direction.BACKWARD]

    @cached_property
    def _breaks(self) -> list[Span]:
        return [match.span() for match in _breaks().finditer(self._text)]

    @cached_property
    def _junctions(self) -> list[Junction]:
        return _find_junctions(self._text, self._breaks)

    @cached_property
    def _scopes(self) -> list[Scope]:
        return [self._find_scope(trigger) for trigger in self._forward]

    def label(self, start: int, end: int) -> int | None:
        """Return what is said of the phrase at a place: 1, 0, -1, or None if it is only spoken of."""
        is_question = self._text.endswith("?")
        if is_question and _asking().match(self._text):
            return SPOKEN_OF
        behind = {trigger.label for trigger in self._backward if self._is_behind(trigger, end)}
        for label in (SPOKEN_OF, ABSENT):
            if label in behind:
                return label
        before = [scope for scope in self._scopes if scope.start <= start < scope.end]
        denials = [scope for scope in before if scope.label == ABSENT]
        last_denial = max((scope.start for scope in denials), default=-1)
        if any(scope.label is SPOKEN_OF and scope.start > last_denial for scope in before):
            return SPOKEN_OF
        if denials:
            is_sort = self._text.endswith(_sorts(), 0, start)
            return ABSENT if not is_sort and any(start < scope.sure_end for scope in denials) else SPOKEN_OF
        return UNCERTAIN if UNCERTAIN in behind or before or is_question else PRESENT

    def answer(self, start: int, stop: int) -> int | None:
        """Return what the answer from ``start`` to ``stop`` says of its heading, as in "Pneumothorax: none"."""
        lead = _leads().match(self._text, start, stop)
        place = lead.end() if lead else start
        if _well().match(self._text, place, stop):
            return ABSENT
        trigger = next((one for one in self._triggers if one.start == place), None)
        clause = _CLAUSE.match(self._text, place, stop)
        clause_end = clause.end() if clause else stop
        is_of_other = any(place <= low and high <= clause_end for low, high in self._mentions)
        if trigger is None:
            return PRESENT if is_of_other else self.label(start, start)
        if is_of_other:
            return SPOKEN_OF if trigger.label == ABSENT else PRESENT
        return trigger.label

    def says(self, start: int, end: int) -> bool:
        """Return whether a trigger or a verb stands between two places: more than a name."""
        if _finite_verbs().search(self._text, start, end):
            return True
        return any(start <= trigger.start and trigger.end <= end for trigger in self._triggers)

    def _with_joint(self, trigger: Trigger) -> Trigger:
        """Return the trigger with what joins it to the phrase in front."""
        joint = _JOINT.search(self._text, 0, trigger.start)
        return replace(trigger, start=joint.start()) if joint else trigger

    def _find_scope(self, trigger: Trigger) -> Scope:
        """Return how far a trigger reaches that looks forward."""
        end = next((low for low, _ in self._breaks if low >= trigger.end), len(self._text))
        if trigger.is_short and (match := _ended_breaks().search(self._text, trigger.end, end)):
            end = match.start()
        # "No effusion is seen, ...": the verb ends the statement at the next junction.
        verb = _verbs().search(self._text, trigger.end, end)
        closed = verb.end() if verb and self._text[trigger.end : verb.start()].strip() else end
        sure_end, is_list = end, False
        for junction in self._junctions[bisect_left(self._junctions, trigger.end, key=lambda one: one.start) :]:
            if junction.start >= end:
                break
            begins = self._begins(trigger, junction, closed <= junction.start, is_list)
            if begins is Reach.YES:
                end = junction.start
                break
            if begins is Reach.PERHAPS:
                sure_end = min(sure_end, junction.start)
            is_list = True
        return Scope(trigger.label, trigger.end, min(sure_end, end), end)

    def _begins(self, trigger: Trigger, junction: Junction, is_closed: bool, is_list: bool) -> Reach:
        """Return whether a statement begins behind a junction, for a trigger in front of it."""
        if junction.goes_on:
            return Reach.NO
        if is_closed or junction.is_stated or junction.end in self._forward_starts:
            return Reach.YES
        if trigger.is_short and not junction.joins:
            return Reach.YES
        if junction.is_seen and not is_list and self._names(trigger.end, junction.start):
            return Reach.YES
        return junction.opens

    def _is_behind(self, trigger: Trigger, end: int) -> bool:
        """Return whether a trigger behind belongs to the phrase that ends at ``end``: no other statement in between."""
        if not end <= trigger.start <= end + _FARTHEST:
            return False
        between = self._text[end : trigger.start]
        if between.count(" ") > _MOST_WORDS_BETWEEN or _finite_verbs().search(between):
            return False
        if trigger.label == UNCERTAIN and _links().search(between):
            return False
        if any(end <= low and high <= trigger.start for low, high in self._breaks):
            return False
        if any(end <= other.start and other.end <= trigger.start for other in self._forward):
            return False
        inside = [one for one in self._junctions if end <= one.start and one.end <= trigger.start]
        if any(one.opens is not Reach.NO and not one.goes_on for one in inside):
            return False
        # "Left effusion, pneumothorax is not seen": the comma parts two statements, unless the list goes on.
        return not ((trigger.is_short or self._names(end, trigger.start)) and any(not one.joins for one in inside))

    def _names(self, start: int, end: int) -> bool:
        """Return whether something is named between two places."""
        first = bisect_left(self._mentions, (start, start))
        return first < len(self._mentions) and self._mentions[first][1] <= end


def _find_triggers(text: str) -> list[Trigger]:
    """Return the triggers of a sentence in order, without those that a longer one overlaps."""
    found = [
        Trigger(label, direction, match.start(), match.end(), is_short)
        for label, direction, is_short, pattern in _triggers()
        for match in pattern.finditer(text)
    ]
    kept: list[Trigger] = []
    taken: dict[int, list[Trigger]] = {}
    for trigger in sorted(found, key=lambda one: one.start - one.end):
        places = range(trigger.start, trigger.end)
        # A doubt may look both ways: "is favored", "favored to be"; so may a denial of the same words.
        if all(
            one.label == trigger.label
            and (trigger.label == UNCERTAIN or (one.start, one.end) == (trigger.start, trigger.end))
            for place in places
            for one in taken.get(place, ())
        ):
            kept.append(trigger)
            for place in places:
                taken.setdefault(place, []).append(trigger)
    return sorted(kept, key=lambda one: one.start)


def _find_junctions(text: str, breaks: Sequence[Span]) -> list[Junction]:
    """Return the places of a sentence where a list goes on or a statement begins."""
    places = [match.span() for match in _JUNCTION.finditer(text)]
    commas = [start for start, end in places if "," in text[start:end]]
    found = []
    for start, end in places:
        stop = min(next((low for low, _ in breaks if low >= end), len(text)), end + _FARTHEST)
        verb = _verbs().search(text, end, stop)
        rest = text[end : verb.start() if verb else stop]
        segment = text[end : min(next((comma for comma in commas if comma >= end), stop), stop)]
        mark = text[start:end]
        stated = [match[0] for match in _statements().finditer(segment) if match.start()]
        is_seen = bool(stated) and all(_sight().fullmatch(one) for one in stated)
        goes_on = _LIST_WORD.search(mark + rest) is not None
        found.append(
            Junction(
                start,
                end,
                opens=_opens(segment, mark),
                is_stated=bool(stated) and not is_seen,
                is_seen=is_seen and "," in mark,
                goes_on=goes_on,
                joins=goes_on or "and" in mark or "&" in mark or " and " in rest,
            )
        )
    return found


def _opens(segment: str, mark: str) -> Reach:
    """Return whether a statement begins with a segment, by its first words."""
    is_with, is_comma = "with" in mark, "," in mark
    if _opening(words.GRADES).match(segment) or (is_comma and is_with):
        return Reach.YES
    if is_comma and _opening(words.DETERMINERS).match(segment):
        return Reach.YES
    if _opening(words.SIZES).match(segment):
        return Reach.YES if is_comma or is_with else Reach.PERHAPS
    if _opening(words.SIDES).match(segment):
        return Reach.PERHAPS if is_comma else Reach.YES if is_with else Reach.NO
    return Reach.NO


@cache
def _triggers() -> tuple[tuple[int | None, Direction, bool, re.Pattern[str]], ...]:
    """Return label, direction, whether the scope is short, and the pattern, of every group of triggers."""
    return (
        (PRESENT, Direction.NOWHERE, False, _any(words.PSEUDO_DENIALS)),
        (ABSENT, Direction.FORWARD, True, _any(words.ENDED)),
        (UNCERTAIN, Direction.BACKWARD, True, _any(words.BETWEEN)),
        *((label, Direction.FORWARD, False, _any(phrases)) for label, phrases in words.FORWARD.items()),
        *((label, Direction.BACKWARD, False, _any(phrases)) for label, phrases in words.BACKWARD.items()),
    )


def _any(phrases: Sequence[str]) -> re.Pattern[str]:
    """Compile alternatives, the longest first, where no word or hyphen goes on at either end."""
    return re.compile(rf"(?<![\w-])(?:{'|'.join(sorted(phrases, key=len, reverse=True))})(?![\w-])")


@cache
def _breaks() -> re.Pattern[str]:
    return re.compile("|".join(words.BREAKS))


@cache
def _ended_breaks() -> re.Pattern[str]:
    return _any(words.ENDED_BREAKS)


@cache
def _leads() -> re.Pattern[str]:
    return re.compile(rf"(?:(?:{'|'.join(words.ANSWER_LEADS)})[ :=-]+)+")


@cache
def _well() -> re.Pattern[str]:
    return _any(words.ANSWERS_WELL)


@cache
def _sorts() -> tuple[str, ...]:
    return tuple(f"{sort} " for sort in words.SORTS)


@cache
def _opening(phrases: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile(rf"(?:(?:an?|the|there) )?(?:{'|'.join(phrases)})\b")


@cache
def _asking() -> re.Pattern[str]:
    return re.compile(rf"(?:{'|'.join(words.ASKING)})\b")


@cache
def _sight() -> re.Pattern[str]:
    return _any(words.SIGHT)


@cache
def _verbs() -> re.Pattern[str]:
    """Compile what ends a statement: verbs, and words of sight, with or without one."""
    return _any((*words.SIGHT, *words.VERBS))


@cache
def _statements() -> re.Pattern[str]:
    return _any((*words.SIGHT, *words.VERBS, *words.PREDICATES))


@cache
def _links() -> re.Pattern[str]:
    return _any(words.LINKS)


@cache
def _finite_verbs() -> re.Pattern[str]:
    return _any(words.VERBS)
