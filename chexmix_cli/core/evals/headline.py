"""The few numbers of a result that a person asks for first: at most eight, by fixed rules for each task.

A result holds every number under its protocol, hundreds of them; these are the ones that a terminal and the top of a
page show. No rule looks at a value: what is shown does not depend on how good it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from chexmix_cli.core.evals.result import Evaluation, Measurement

#: Numbers of a headline.
MOST = 8
#: Fields that tell numbers of one headline apart, in the order they are shown.
SHOWN_FIELDS = (
    *("label", "at", "group", "features", "probe", "method", "pattern", "ratio", "region", "against", "direction"),
    *("relevance", "avg", "of"),
)
#: Metrics of reports in the order a person asks for them; others follow.
_REPORT = ("green", "label_f1", "radgraph", "chexbert", "bleu4", "rouge_l", "cider_d", "comparison_claims", "distinct2")
_MACRO = "macro"


def headline(evaluation: Evaluation, most: int = MOST) -> list[Measurement]:
    """Return the numbers of a result to be shown first, those that have no value left out."""
    defined = [one for one in evaluation.measurements if one.value is not None]
    rules = _RULES.get(evaluation.task, _one_a_name)
    return list({id(one): one for one in rules(defined)}.values())[:most]


def told_apart(shown: Sequence[Measurement]) -> list[str]:
    """Return for each number what tells it from the others of a headline: its fields that are not the same in all."""
    differing = [
        name for name in SHOWN_FIELDS if len({one.fields.get(name) for one in shown}) > 1 or (name == "label" and shown)
    ]
    return [", ".join(one.fields[name] for name in differing if name in one.fields) for one in shown]


def _classification(found: Sequence[Measurement]) -> Iterable[Measurement]:
    """Yield the means, the chosen operating point, the labels with most positives, and the mean most hidden."""
    whole = [one for one in found if "pattern" not in one.fields and "group" not in one.fields]
    policies = {one.fields.get("policy") for one in whole[:1]}
    whole = [one for one in whole if one.fields.get("policy") in policies]
    yield from (one for one in whole if one.name == "auroc" and one.fields["label"] == _MACRO)
    labels = sorted(
        (one for one in whole if one.name == "auroc" and "pos" in one.fields),
        key=lambda one: -min(int(one.fields["pos"]), int(one.fields["neg"])),
    )
    yield from labels[:2]
    first = labels[0].fields["label"] if labels else None
    yield from (one for one in whole if "at" in one.fields and one.fields["label"] == first)
    masked = [one for one in found if one.name == "auroc" and one.fields.get("hidden") == "tokens"]
    yield from sorted(masked, key=lambda one: -float(one.fields["ratio"]))[:2]
    yield from (one for one in whole if one.name == "auprc" and one.fields["label"] == _MACRO)
    yield from labels[2:]


def _inpainting(found: Sequence[Measurement]) -> Iterable[Measurement]:
    """Yield the PSNR of hidden pixels at the largest ratio, for each method, then the share of codes that are right."""
    ratios = [float(one.fields["ratio"]) for one in found]
    chosen = [one for one in found if float(one.fields["ratio"]) == max(ratios, default=0.0)]
    first = chosen[0].fields.get("pattern") if chosen else None
    chosen = [one for one in chosen if one.fields.get("pattern") == first]
    shown: dict[str, Measurement] = {}
    for one in chosen:
        if (one.name, one.fields.get("region"), one.fields.get("against")) == ("psnr", "masked", "original"):
            shown.setdefault(one.fields["method"], one)
    yield from shown.values()
    yield from _one_a_name(chosen)


def _retrieval(found: Sequence[Measurement]) -> Iterable[Measurement]:
    """Yield recall and the median rank of each direction, of the first relevance."""
    for name in ("R@1", "R@5", "R@10", "median rank"):
        directions: dict[str | None, Measurement] = {}
        for one in found:
            if one.name == name:
                directions.setdefault(one.fields.get("direction"), one)
        yield from directions.values()


def _report(found: Sequence[Measurement]) -> Iterable[Measurement]:
    """Yield the first number of each metric, those that read the content before those that count words."""
    ranks = {name: rank for rank, name in enumerate(_REPORT)}
    yield from sorted(_one_a_name(found), key=lambda one: ranks.get(one.name, len(ranks)))


def _one_a_name(found: Sequence[Measurement]) -> Iterable[Measurement]:
    first: dict[str, Measurement] = {}
    for one in found:
        first.setdefault(one.name, one)
    return first.values()


_RULES: dict[str, Callable[[Sequence[Measurement]], Iterable[Measurement]]] = {
    "classification": _classification,
    "inpainting": _inpainting,
    "report": _report,
    "retrieval": _retrieval,
}
