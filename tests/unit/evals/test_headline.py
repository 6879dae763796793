"""What a terminal shows of a result: few numbers, by rules that look at no value."""

from __future__ import annotations

from chexmix_cli.core.evals.headline import MOST, headline, told_apart
from chexmix_cli.core.evals.result import Evaluation, Measurement


def number(name, value=0.5, **fields):
    reason = "none" if value is None else None
    return Measurement(name=name, value=value, n=9, fields=fields, reason=reason)


def shown(task, *measurements):
    found = headline(Evaluation(task=task, measurements=measurements))
    return [f"{one.name} {what}".strip() for one, what in zip(found, told_apart(found), strict=True)]


def test_classification_begins_with_the_mean_and_the_labels_with_most_of_both_classes():
    labels = [number("auroc", label=f"L{n}", policy="ignore", pos=str(n), neg="50") for n in range(1, 12)]
    others = [number(name, label="L1", policy="ignore") for name in ("auprc", "f1", "ece", "brier")]
    masked = [
        number("auroc", label="macro", hidden=hidden, pattern="random", ratio=ratio, policy="ignore")
        for hidden in ("tokens", "pixels")
        for ratio in ("0.4", "0.8")
    ]
    undefined = number("auroc", None, label="L0", policy="ignore")
    mean = number("auroc", label="macro", policy="ignore")
    other_policy = number("auroc", label="macro", policy="ones")
    found = shown("classification", undefined, *labels, *others, mean, *masked, other_policy)
    assert len(found) == MOST
    assert found[:3] == ["auroc macro", "auroc L11", "auroc L10"]
    assert found[3] == "auroc macro, random, 0.8"


def test_retrieval_has_both_directions():
    found = shown(
        "retrieval",
        *(number(name, direction=way) for way in ("image-to-text", "text-to-image") for name in ("R@1", "MRR", "R@5")),
    )
    assert found == ["R@1 image-to-text", "R@1 text-to-image", "R@5 image-to-text", "R@5 text-to-image"]


def test_inpainting_compares_methods_where_most_is_hidden():
    made = [
        number("psnr", pattern="random", ratio=ratio, method=method, region="masked", against=against)
        for ratio in ("0.2", "0.8")
        for method in ("single", "telea")
        for against in ("original", "roundtrip")
    ]
    assert shown("inpainting", *made) == ["psnr single", "psnr telea"]


def test_reports_begin_with_what_reads_the_content():
    assert shown("report", number("bleu1"), number("bleu4"), number("label_f1", avg="micro"))[0] == "label_f1 micro"
