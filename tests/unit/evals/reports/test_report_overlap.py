"""Word overlap: against sacrebleu, rouge-score, a plain dynamic programme and cases computed by hand."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest

from chexmix_cli.core.evals.reports.metrics.overlap import (
    bleu_counts,
    bleu_finish,
    cider_d,
    distinct_metrics,
    longest_common,
    overlap_metrics,
    rouge_l,
    sentence_bleu2,
    words,
)
from chexmix_cli.core.evals.reports.metrics.quantity import Absent, Quantity

#: Few, so that random texts share long runs of them.
WORDS = ["no", "effusion", "heart", "clear"]
FIELDS = {"ref": "both"}


def random_texts(seed: int, count: int = 30, *, least: int = 0) -> list[str]:
    rng = random.Random(seed)
    return [" ".join(rng.choices(WORDS, k=rng.randint(least, 20))) for _ in range(count)]


def value(quantity: Quantity | Absent) -> float:
    assert isinstance(quantity, Quantity)
    return float(quantity.finish(quantity.sums_NK.sum(axis=0, keepdims=True))[0])


def named(found, name: str, **fields: str) -> Quantity | Absent:
    (one,) = [q for q in found.quantities if q.name == name and fields.items() <= dict(q.fields).items()]
    return one


def test_words_are_lower_case_without_punctuation_and_keep_what_is_inside():
    assert words("The 3.5 cm X-ray, isn't 1/2: ___ (XXXX).") == [
        "the",
        "3.5",
        "cm",
        "x-ray",
        "isn't",
        "1/2",
        "___",
        "xxxx",
    ]


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_corpus_bleu_is_sacrebleus_without_smoothing(n):
    from sacrebleu.metrics.bleu import BLEU

    predictions, references = random_texts(1), random_texts(2, least=1)
    oracle = BLEU(tokenize="none", smooth_method="none", max_ngram_order=n).corpus_score(predictions, [references])
    counts = [bleu_counts(a.split(), b.split()) for a, b in zip(predictions, references, strict=True)]
    found = bleu_finish(n)(np.array(counts, np.float64).sum(axis=0, keepdims=True))[0]
    assert found > 0
    assert 100 * found == pytest.approx(oracle.score, abs=1e-9)


def test_the_sacrebleu_form_is_sacrebleus_number():
    import sacrebleu

    predictions, references = random_texts(3), random_texts(4, least=1)
    found = overlap_metrics(predictions, references, FIELDS)
    assert value(named(found, "bleu")) == pytest.approx(sacrebleu.corpus_bleu(predictions, [references]).score)


def test_bleu_by_hand():
    # 3 of 4 words and 1 of 3 pairs match; the prediction is one word short.
    counts = np.array([bleu_counts(["the", "heart", "is", "big"], ["the", "heart", "was", "very", "big"])], np.float64)
    assert counts[0].tolist() == [3, 1, 0, 0, 4, 3, 2, 1, 4, 5]
    assert bleu_finish(2)(counts)[0] == pytest.approx(math.sqrt(3 / 4 * 1 / 3) * math.exp(1 - 5 / 4))
    assert bleu_finish(3)(counts)[0] == 0
    assert bleu_counts(["no", "no", "no"], ["no"])[0] == 1, "matches are clipped"


def test_sentence_bleu2_splits_full_stops_off():
    assert sentence_bleu2("Clear lungs.", "clear lungs .") == pytest.approx(1.0)
    assert sentence_bleu2("", "clear lungs .") == 0.0


def plain_lcs(first, second) -> int:
    table = [[0] * (len(second) + 1) for _ in range(len(first) + 1)]
    for i, a in enumerate(first):
        for j, b in enumerate(second):
            table[i + 1][j + 1] = table[i][j] + 1 if a == b else max(table[i][j + 1], table[i + 1][j])
    return table[-1][-1]


def test_the_longest_common_subsequence_is_the_dynamic_programmes():
    for a, b in zip(random_texts(5, 60), random_texts(6, 60), strict=True):
        assert longest_common(a.split(), b.split()) == plain_lcs(a.split(), b.split())


def test_rouge_l_in_both_forms():
    from rouge_score.rouge_scorer import RougeScorer

    predictions, references = random_texts(7), random_texts(8, least=1)
    scorer = RougeScorer(["rougeL"])
    oracle = [scorer.score(b, a)["rougeL"].fmeasure for a, b in zip(predictions, references, strict=True)]
    found = overlap_metrics(predictions, references, FIELDS)
    assert value(named(found, "rouge_l", form="rouge_score")) == float(np.mean(oracle))
    for a, b, expected in zip(predictions, references, oracle, strict=True):
        assert rouge_l(words(a), words(b), beta=1.0) == pytest.approx(expected)
    # P 2/3, R 2/4, beta 1.2.
    assert rouge_l(["a", "b", "x"], ["a", "c", "b", "d"]) == pytest.approx(
        2.44 * (2 / 3 * 1 / 2) / (1 / 2 + 1.44 * 2 / 3)
    )


def test_cider_d_by_hand():
    """Two references of two words. "clear" occurs in both: no weight. Only "lungs" and the pair "clear lungs" count."""
    references = [["clear", "lungs"], ["clear", "heart"]]
    assert cider_d([["clear", "lungs"], ["clear", "heart"]], references) == pytest.approx([5.0, 5.0])
    # Unigrams match fully (cosine 1, "lungs" twice is clipped to once: 1 / 2), the pairs: one of two extra pairs.
    weight = math.log(2)
    unigram = min(2 * weight, weight) * weight / (2 * weight * weight)
    unseen = math.log(2) - math.log(1)
    pair = weight * weight / (math.sqrt(weight**2 + unseen**2) * weight)
    penalty = math.exp(-((2 - 1) ** 2) / (2 * 36))
    assert cider_d([["clear", "lungs", "lungs"], []], references) == pytest.approx(
        [10 * penalty * (unigram + pair) / 4, 0.0]
    )


def test_cider_d_is_that_of_the_published_package():
    """pycocoevalcap's class of this name without its Java tokenizer: words as we cut them go in."""
    cider = pytest.importorskip("pycocoevalcap.cider.cider").Cider()
    draw = random.Random(0)
    vocabulary = [
        "the",
        "lungs",
        "are",
        "clear",
        "heart",
        "size",
        "is",
        "normal",
        "no",
        "effusion",
        "mild",
        "opacity",
        "in",
        "left",
        "right",
        "base",
    ]
    references = [[draw.choice(vocabulary) for _ in range(draw.randint(3, 25))] for _ in range(40)]
    predictions = [
        [word if draw.random() < 0.7 else draw.choice(vocabulary) for word in report][: draw.randint(2, 25)]
        for report in references
    ]
    sides = [{n: [" ".join(report)] for n, report in enumerate(side)} for side in (references, predictions)]
    _, expected = cider.compute_score(*sides)
    assert cider_d(predictions, references) == pytest.approx(list(expected), abs=1e-9)


def test_cider_d_of_one_reference_is_not_defined():
    found = overlap_metrics(["clear lungs"], ["clear lungs"], FIELDS)
    assert named(found, "cider_d").reason == "document frequencies need two different references"


def test_document_frequencies_come_from_the_references_not_the_predictions():
    references = ["no effusion seen here", "the heart is big now"]
    alone = cider_d([words(t) for t in references], [words(t) for t in references])
    other = cider_d([words(references[0]), words(references[0])], [words(t) for t in references])
    assert other[0] == pytest.approx(alone[0])
    assert other[1] == 0


def test_distinct_and_length_by_hand():
    found = distinct_metrics(["no no effusion", ""], ["no mass", "clear"], FIELDS)
    assert value(named(found, "distinct1", of="predictions")) == pytest.approx(2 / 3)
    assert value(named(found, "distinct2", of="predictions")) == pytest.approx(1.0)
    assert value(named(found, "words", of="predictions")) == 1.5
    assert value(named(found, "words", of="references")) == 1.5
    assert np.isnan(value(named(distinct_metrics([""], ["a"], FIELDS), "distinct1", of="predictions")))


def test_a_text_without_an_end_takes_no_table_of_all_pairs_of_words():
    # The package's own table would have 1.6e9 entries here.
    long = " ".join(f"w{number % 97}" for number in range(40_000))
    found = overlap_metrics([long, "a b"], [long, "a c"], FIELDS)
    assert value(named(found, "rouge_l", form="rouge_score")) == pytest.approx((1.0 + 0.5) / 2)


def test_packages_that_are_missing_give_the_reason(monkeypatch):
    import sys

    for module in ("sacrebleu", "rouge_score.scoring"):
        monkeypatch.setitem(sys.modules, module, None)
    found = overlap_metrics(["a b"], ["a b"], FIELDS)
    assert named(found, "bleu").reason == "sacrebleu is not installed (extra: metrics)"
    assert named(found, "rouge_l", form="rouge_score").reason == "rouge-score is not installed (extra: metrics)"
