"""Writes a chest radiograph report from labels, view and age group: sentence templates with varied wording and order.

What a report says is what its labels say. The *universe* is the set of findings that is known of a film: a finding of
the universe that is not among the labels is absent and may be denied; a finding outside the universe is never
mentioned. Where a finding lies is said only if places are given for it. Wording lives in ``phrases.py``; nothing here
is learned from reports of real patients.
"""

from __future__ import annotations

import random
import re
from collections.abc import Collection, Iterable, Mapping, Sequence

from chexmix_cli.core.errors import DataError, Reason
from chexmix_cli.core.text import phrases
from chexmix_cli.core.text.header import AgeGroup
from chexmix_cli.core.text.phrases import CAUSES, LUNG_OPACITY, NO_FINDING, UNPLACED, WORDINGS
from chexmix_cli.core.text.places import Place, join_words, placed_noun

Places = Mapping[str, Collection[Place]]

_NIH = frozenset(WORDINGS) - {"COVID-19", LUNG_OPACITY} | {NO_FINDING}
#: Findings of the label sources that the embedded model is trained on, by the name of the source.
UNIVERSES: Mapping[str, frozenset[str]] = {
    "nih14": _NIH,
    "rsna_normal": _NIH | {LUNG_OPACITY},
    "kermany": frozenset({NO_FINDING, "Pneumonia", *CAUSES}),
    "hannover": frozenset({"COVID-19"}),
}

_CHOICE = re.compile(r"\[([^\[\]]*)\]")
_MAX_FINDINGS_SENTENCES = 6


def write_report(
    labels: Iterable[str],
    *,
    universe: Collection[str],
    view: str | None,
    age_group: AgeGroup | None,
    rng: random.Random,
    places: Places | None = None,
) -> tuple[str, str]:
    """Return findings and impression of one image, the same for the same arguments and state of ``rng``.

    Args:
        labels: findings that are present, or ``No Finding`` alone. None at all where the universe has ``Lung Opacity``:
            the report denies that, and calls the film abnormal if the universe has ``No Finding``, too.
        universe: every finding the source labels; absent ones may be denied, others are not spoken of.
        view: ``PA``, ``AP``, ``LATERAL`` or None; stated in most reports when known.
        age_group: stated in some reports when known.
        rng: source of every choice.
        places: where findings that are present lie, by finding; of others in it nothing is said.

    Raises:
        DataError: if the labels are empty, contradict each other or lie outside the universe, the view is unknown, or
            an adult's pneumonia has a cause (only the children's source labels causes).
    """
    present = _checked(labels, universe, view, age_group)
    places = {name: where for name, where in (places or {}).items() if where and name not in UNPLACED}
    order = [label for label in present if label not in CAUSES and label != NO_FINDING]
    rng.shuffle(order)
    cause = next((CAUSES[label] for label in present if label in CAUSES), None)
    if order:
        body = _positives(order, cause, places, rng, clear=LUNG_OPACITY in universe and LUNG_OPACITY not in order)
        opening = _opening(view, age_group, rng, needed=len(body) < 2)
        room = max(0, _MAX_FINDINGS_SENTENCES - len(opening) - len(body))
        # A report that says where things are is long already.
        denied = _negatives(order, universe, rng, most=min(room, 1 if places else rng.choice((1, 2, 2, 3))))
        body = _join_parts(body, denied, rng)
        impression = _impression(order, cause, places, rng)
    elif not present:
        opening = _opening(view, age_group, rng, needed=True)
        body = _negatives(order, {LUNG_OPACITY}, rng, most=1)
        body += _negatives(order, set(universe) - {LUNG_OPACITY}, rng, most=rng.choice((0, 1, 2)))
        frames = phrases.ABNORMAL_IMPRESSIONS if NO_FINDING in universe else phrases.ABSENT_FRAMES
        impression = [_say(rng.choice(frames), rng, np=rng.choice(WORDINGS[LUNG_OPACITY].absent))]
    else:
        opening = _opening(view, age_group, rng)
        clear = _say(rng.choice(phrases.CLEAR_LUNGS), rng)
        # That the lungs are clear denies opacity already.
        body = [clear, *_negatives(order, set(universe) - {LUNG_OPACITY}, rng, most=rng.choice((1, 2, 3)))]
        rng.shuffle(body)
        impression = _normal_impression(universe, age_group, rng)
    return " ".join(opening + body), " ".join(impression)


def _checked(
    labels: Iterable[str], universe: Collection[str], view: str | None, age_group: AgeGroup | None
) -> list[str]:
    """Return the labels sorted, or raise."""
    present = sorted(set(labels))
    unknown = [label for label in present if label not in universe]
    if unknown:
        raise DataError(
            Reason.BAD_RECORD, f"label {unknown[0]!r} is not among the source's", expected=", ".join(sorted(universe))
        )
    unspoken = [name for name in sorted(universe) if name not in WORDINGS and name not in CAUSES and name != NO_FINDING]
    if unspoken:
        raise DataError(Reason.BAD_RECORD, f"no wording for finding {unspoken[0]!r}", expected=", ".join(WORDINGS))
    causes = [label for label in present if label in CAUSES]
    if (not present and LUNG_OPACITY not in universe) or (NO_FINDING in present and len(present) > 1):
        raise DataError(Reason.BAD_RECORD, f"labels {present}", expected=f"findings, or {NO_FINDING!r} alone")
    if view is not None and view not in phrases.VIEW_NAMES:
        raise DataError(Reason.BAD_RECORD, f"view {view!r}", expected=f"{', '.join(phrases.VIEW_NAMES)} or none")
    if len(causes) > 1 or (causes and "Pneumonia" not in present):
        raise DataError(Reason.BAD_RECORD, f"labels {present}", expected="at most one cause, beside Pneumonia")
    if causes and age_group == "adult":
        raise DataError(
            Reason.BAD_RECORD, f"labels {present} of an adult", expected="causes with children's films only"
        )
    return present


def _opening(view: str | None, age_group: AgeGroup | None, rng: random.Random, *, needed: bool = False) -> list[str]:
    """Return a sentence on the film itself, or none (unless it is ``needed`` to fill a report)."""
    told_view = view is not None and (rng.random() < 0.75 or needed)
    told_age = age_group is not None and rng.random() < (0.5 if age_group == "child" else 0.15)
    if not (told_view or told_age or needed):
        return []
    frames: Sequence[str] = phrases.VIEW_SENTENCES if told_view else phrases.PLAIN_SENTENCES
    shown = rng.choice(phrases.VIEW_NAMES[view]) if view is not None else ""
    adjective = patient = ""
    if age_group is not None and told_age and rng.random() < 0.5:
        adjective = rng.choice(phrases.ADJECTIVES[age_group])
        frames = [frame for frame in frames if "{adjective}" in frame]
    elif age_group is not None and told_age:
        patient = rng.choice(phrases.PATIENTS[age_group])
        frames = [frame for frame in frames if "{patient}" in frame]
    return [_say(rng.choice(frames), rng, view=shown, adjective=adjective, patient=patient)]


def _positives(
    order: Sequence[str], cause: str | None, places: Places, rng: random.Random, *, clear: bool
) -> list[str]:
    """Return sentences that state every finding of ``order``, some of them in pairs; none of opacity if ``clear``."""
    sentences, rest = [], list(order)
    joined = {LUNG_OPACITY, "Pneumonia"} <= set(order) and "Pneumonia" not in places and rng.random() < 0.8
    if joined:
        rest.remove("Pneumonia")
    # A place beside two findings could be either's.
    alone = {*places, "COVID-19"} | ({LUNG_OPACITY} if joined else set())
    while rest:
        finding = rest.pop(0)
        if joined and finding == LUNG_OPACITY:
            frame = rng.choice(phrases.OPACITY_OF_PNEUMONIA)
            opacity, disease = _noun(finding, None, places, rng), _noun("Pneumonia", cause, places, rng)
            sentences.append(_say(frame, rng, np=opacity, disease=disease))
            continue
        crowded = len(order) > 3
        pairs = bool(rest) and not {finding, rest[0]} & alone
        if pairs and rng.random() < (0.8 if crowded else 0.3):
            frame = rng.choice(phrases.PRESENT_PAIR_FRAMES)
            first, second = _noun(finding, cause, places, rng), _noun(rest.pop(0), cause, places, rng)
            sentences.append(_say(frame, rng, a=first, b=second))
            continue
        wording = WORDINGS[finding]
        own = [text for text in wording.present if _fits(text, clear=clear, placed=finding in places)]
        frame = rng.choice(own if rng.random() < wording.own and own else phrases.PRESENT_FRAMES)
        sentences.append(_say(frame, rng, np=_noun(finding, cause, places, rng)))
    if cause is not None and not any(cause in sentence.lower() for sentence in sentences):
        sentences.append(_say(rng.choice(phrases.CAUSE_SENTENCES), rng, cause=cause))
    return sentences


def _fits(frame: str, *, clear: bool, placed: bool) -> bool:
    """Return whether a sentence says no opacity where there is none, and has room for a place where there is one."""
    return not (clear and "opacit" in frame) and not (placed and "{np}" not in frame)


def _noun(finding: str, cause: str | None, places: Places, rng: random.Random) -> str:
    if finding == "Pneumonia" and cause is not None and rng.random() < 0.35:
        return f"{cause} pneumonia"
    noun = rng.choice(WORDINGS[finding].nouns)
    return placed_noun(noun, places[finding], rng) if finding in places else noun


def _negatives(order: Sequence[str], universe: Collection[str], rng: random.Random, *, most: int) -> list[str]:
    """Return up to ``most`` sentences that deny findings of the universe which are absent and safe to deny."""
    absent = [name for name in sorted(universe) if name in WORDINGS and name not in order]
    open_to_denial = [name for name in absent if WORDINGS[name].weight and not WORDINGS[name].hidden_by & set(order)]
    sentences: list[str] = []
    while open_to_denial and len(sentences) < most:
        first = _take(open_to_denial, rng)
        own = WORDINGS[first].absent_sentences
        if own and rng.random() < 0.6:
            sentences.append(_say(rng.choice(own), rng))
            continue
        names = [first]
        while open_to_denial and len(names) < 3 and rng.random() < 0.5:
            names.append(_take(open_to_denial, rng))
        nouns = [rng.choice(WORDINGS[name].absent) for name in names]
        sentences.append(_say(rng.choice(phrases.ABSENT_FRAMES), rng, np=join_words(nouns, "or")))
    return sentences


def _take(names: list[str], rng: random.Random) -> str:
    """Remove and return one name, drawn by how often its absence is worth a word."""
    name = rng.choices(names, [WORDINGS[name].weight for name in names])[0]
    names.remove(name)
    return name


def _join_parts(positives: list[str], negatives: list[str], rng: random.Random) -> list[str]:
    order = rng.random()
    if order < 0.7 or not negatives:
        return positives + negatives
    if order < 0.85:
        return negatives + positives
    return [*negatives[:1], *positives, *negatives[1:]]


def _normal_impression(universe: Collection[str], age_group: AgeGroup | None, rng: random.Random) -> list[str]:
    """Return the impression of a film without findings; the heart is spoken of only if the source looks at it."""
    frames = list(phrases.NORMAL_IMPRESSIONS)
    if "Cardiomegaly" in universe:
        frames += phrases.NORMAL_HEART_LUNG_IMPRESSIONS * 2
    adjective = rng.choice(phrases.ADJECTIVES[age_group]) if age_group == "child" and rng.random() < 0.3 else ""
    sentences = [_say(rng.choice(frames), rng, adjective=adjective)]
    if "Pneumonia" in universe and rng.random() < 0.4:
        sentences.append(_say(rng.choice(phrases.ABSENT_FRAMES), rng, np="pneumonia"))
    return sentences


def _impression(order: Sequence[str], cause: str | None, places: Places, rng: random.Random) -> list[str]:
    """Return one or two sentences that name every finding once more, pneumonia first if there is one."""
    ranked = sorted(order, key=lambda finding: finding != "Pneumonia")
    told = next((finding for finding in ranked if finding in places), None)
    if told is not None and len(order) < 4 and rng.random() < 0.6:
        ranked.remove(told)
        groups = [
            [placed_noun(WORDINGS[told].nouns[0], places[told], rng)],
            [WORDINGS[name].nouns[0] for name in ranked],
        ]
        return [_say(rng.choice(phrases.IMPRESSION_FRAMES), rng, np=join_words(group)) for group in groups if group]
    nouns = [WORDINGS[finding].nouns[0] for finding in ranked]
    if ranked[0] == "Pneumonia" and cause is not None:
        nouns[0] = _say(rng.choice(phrases.CAUSED), rng, sentence=False, cause=cause)
    comma = "," in nouns[0]
    split = len(nouns) > 1 and (comma or rng.random() < 0.4)
    groups = [nouns[:1], nouns[1:]] if split else [nouns]
    frames = phrases.IMPRESSION_FRAMES[:2] if comma else phrases.IMPRESSION_FRAMES
    return [_say(rng.choice(frames), rng, np=join_words(group)) for group in groups]


def _say(frame: str, rng: random.Random, *, sentence: bool = True, **slots: str) -> str:
    """Return a frame with its choices drawn and its slots filled; a ``sentence`` starts with a capital."""
    text = frame
    while match := _CHOICE.search(text):
        text = text[: match.start()] + rng.choice(match[1].split("|")) + text[match.end() :]
    text = text.format(**slots)
    return text[:1].upper() + text[1:] if sentence else text
