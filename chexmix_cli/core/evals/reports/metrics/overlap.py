"""Words that prediction and reference share: BLEU, ROUGE-L, CIDEr-D, in the forms the field publishes.

The forms differ by a lot and are never mixed: every number names its tokens and its form. Empty predictions count.

N items, R resamples. n-grams are tuples of words.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from chexmix_cli.core.evals.metrics.binary import Floats
from chexmix_cli.core.evals.reports.metrics.quantity import (
    Absent,
    Finisher,
    Found,
    Quantity,
    divide,
    mean_quantity,
)

_WORD = re.compile(r"[^\W_]+(?:[.'\-/][^\W_]+)*|_{2,}")
_MOST_N = 4
#: COCO's weight of recall in ROUGE-L, and the width of CIDEr-D's length penalty.
_BETA, _SIGMA = 1.2, 6.0

Ngrams = Counter[tuple[str, ...]]


def words(text: str) -> list[str]:
    """Return lower-case words: runs of letters and digits, inner ``. ' - /`` kept; punctuation is left out."""
    return _WORD.findall(text.lower())


def ngrams(tokens: Sequence[str], n: int) -> Ngrams:
    """Return how often each run of ``n`` tokens occurs."""
    return Counter(zip(*(tokens[start:] for start in range(n)), strict=False))


def bleu_counts(prediction: Sequence[str], reference: Sequence[str]) -> list[int]:
    """Return matches of n = 1..4 (clipped), runs of n = 1..4 in the prediction, and both lengths: ten numbers."""
    matched, runs = [], []
    for n in range(1, _MOST_N + 1):
        found = ngrams(prediction, n)
        matched.append((found & ngrams(reference, n)).total())
        runs.append(found.total())
    return [*matched, *runs, len(prediction), len(reference)]


def bleu_finish(n: int) -> Finisher:
    """Return BLEU-n of the sums of ``bleu_counts``: corpus level, no smoothing; 0 where a precision is 0.

    Source: Papineni et al. 2002, as COCO's caption evaluation computes it (one reference, its length the closest).
    """

    def finish(sums_RK: Floats) -> Floats:
        matched_RN, runs_RN = sums_RK[:, :n], sums_RK[:, _MOST_N : _MOST_N + n]
        length_R, reference_R = sums_RK[:, 2 * _MOST_N], sums_RK[:, 2 * _MOST_N + 1]
        is_zero_R = (matched_RN == 0).any(axis=1)
        safe_RN = np.where(is_zero_R[:, None], 1.0, matched_RN / np.maximum(runs_RN, 1))
        brevity_R = np.minimum(0.0, 1.0 - reference_R / np.maximum(length_R, 1))
        value_R = np.exp(np.log(safe_RN).mean(axis=1) + brevity_R)
        found: Floats = np.where(is_zero_R, 0.0, value_R)
        return found

    return finish


def sentence_bleu2(prediction: str, reference: str) -> float:
    """Return BLEU-2 of one report as CXR-Report-Metric splits it: lower case, at spaces, full stops on their own.

    Not smoothed: 0 without a common pair of words.
    """
    sides = [text.lower().replace(".", " .").split() for text in (prediction, reference)]
    counts = np.array([bleu_counts(*sides)], np.float64)
    return float(bleu_finish(2)(counts)[0])


def longest_common(first: Sequence[str], second: Sequence[str]) -> int:
    """Return the length of the longest common subsequence, by bit-parallel rows (Hyyrö 2004)."""
    places: dict[str, int] = {}
    for place, word in enumerate(first):
        places[word] = places.get(word, 0) | 1 << place
    full = (1 << len(first)) - 1
    row = full
    for word in second:
        hit = row & places.get(word, 0)
        row = ((row + hit) | (row - hit)) & full
    return len(first) - row.bit_count()


def rouge_l(prediction: Sequence[str], reference: Sequence[str], beta: float = _BETA) -> float:
    """Return ROUGE-L of one report: (1 + beta^2) P R / (R + beta^2 P) of the longest common subsequence; 0 if none."""
    common = longest_common(prediction, reference)
    if common == 0:
        return 0.0
    precision, recall = common / len(prediction), common / len(reference)
    return (1 + beta**2) * precision * recall / (recall + beta**2 * precision)


def cider_d(predictions: Sequence[Sequence[str]], references: Sequence[Sequence[str]]) -> list[float]:
    """Return CIDEr-D of each report, 0..10; document frequencies come from these references.

    Source: Vedantam et al. 2015, as COCO's evaluation computes it: n = 1..4, clipped, the length penalty on the number
    of word pairs, no stemming. One reference alone has no document frequencies: every value is 0.
    """
    counted = [[ngrams(reference, n) for n in range(1, _MOST_N + 1)] for reference in references]
    frequency: Counter[tuple[str, ...]] = Counter()
    for by_n in counted:
        for runs in by_n:
            frequency.update(runs.keys())
    log_count = math.log(len(references)) if references else 0.0
    found = []
    for tokens, by_n in zip(predictions, counted, strict=True):
        other = [ngrams(tokens, n) for n in range(1, _MOST_N + 1)]
        gap = other[1].total() - by_n[1].total()
        penalty = math.exp(-(gap**2) / (2 * _SIGMA**2))
        parts = [
            _cosine(_weighted(mine, frequency, log_count), _weighted(theirs, frequency, log_count))
            for mine, theirs in zip(other, by_n, strict=True)
        ]
        found.append(10 * penalty * sum(parts) / _MOST_N)
    return found


def _weighted(runs: Ngrams, frequency: Mapping[tuple[str, ...], int], log_count: float) -> dict[tuple[str, ...], float]:
    return {run: times * (log_count - math.log(max(1, frequency.get(run, 0)))) for run, times in runs.items()}


def _cosine(mine: Mapping[tuple[str, ...], float], theirs: Mapping[tuple[str, ...], float]) -> float:
    """Return the cosine with the prediction's weights clipped to the reference's."""
    norms = math.sqrt(sum(value**2 for value in mine.values()) * sum(value**2 for value in theirs.values()))
    if norms == 0:
        return 0.0
    return sum(min(value, theirs[run]) * theirs[run] for run, value in mine.items() if run in theirs) / norms


def overlap_metrics(predictions: Sequence[str], references: Sequence[str], fields: Mapping[str, str]) -> Found:
    """Return BLEU-1..4, sacreBLEU, sentence BLEU-2, ROUGE-L in two forms and CIDEr-D."""
    found = Found()
    tokens = [words(text) for text in predictions]
    others = [words(text) for text in references]
    ours = {**fields, "tok": "words"}
    counts_NK = np.array([bleu_counts(*pair) for pair in zip(tokens, others, strict=True)], np.float64).reshape(-1, 10)
    for n in range(1, _MOST_N + 1):
        made = {"form": "coco", "level": "corpus", "smooth": "none", **ours}
        found.quantities.append(Quantity(name=f"bleu{n}", fields=made, sums_NK=counts_NK, finish=bleu_finish(n)))
    found.quantities.append(_sacrebleu(predictions, references, fields))
    pairs = list(zip(predictions, references, strict=True))
    split = {"form": "cxr-report-metric", "level": "report", "smooth": "none", **fields, "tok": "spaces"}
    found.quantities.append(mean_quantity("sentence_bleu2", [sentence_bleu2(*pair) for pair in pairs], split))
    rouge = [rouge_l(*pair) for pair in zip(tokens, others, strict=True)]
    found.quantities.append(mean_quantity("rouge_l", rouge, {"form": "coco", "beta": f"{_BETA}", **ours}))
    found.quantities.append(_rouge_score(pairs, fields))
    cider = {"form": "cider-d", "df": "references", "sigma": f"{_SIGMA:g}", **ours}
    if len(set(references)) > 1:
        found.quantities.append(mean_quantity("cider_d", list(cider_d(tokens, others)), cider))
    else:
        reason = "document frequencies need two different references"
        found.quantities.append(Absent(name="cider_d", fields=cider, reason=reason))
    return found


def distinct_metrics(predictions: Sequence[str], references: Sequence[str], fields: Mapping[str, str]) -> Found:
    """Return how varied the predictions are (distinct n-grams as a share of all) and how long, with the references."""
    found = Found()
    tokens = [words(text) for text in predictions]
    others = [words(text) for text in references]
    made = {**fields, "tok": "words"}
    for n in (1, 2):
        for of, side in (("predictions", tokens), ("references", others)):
            all_runs = sum((ngrams(one, n) for one in side), Counter[tuple[str, ...]]())
            share = np.array([[len(all_runs), all_runs.total()]] + [[0, 0]] * (len(side) - 1), np.float64)
            found.quantities.append(
                Quantity(
                    name=f"distinct{n}",
                    fields={"of": of, **made},
                    sums_NK=share,
                    finish=lambda sums_RK: divide(sums_RK[:, 0], sums_RK[:, 1]),
                    undefined="not a word",
                    # A resample repeats reports, and repetition is what is counted.
                    has_interval=False,
                )
            )
    for of, side in (("predictions", tokens), ("references", others)):
        lengths = [float(len(one)) for one in side]
        found.quantities.append(mean_quantity("words", lengths, {"of": of, **made}, column=f"words_{of}"))
    return found


def _sacrebleu(predictions: Sequence[str], references: Sequence[str], fields: Mapping[str, str]) -> Quantity | Absent:
    """Return BLEU as the sacrebleu package has it, 0..100, or why not."""
    made = {"form": "sacrebleu", "level": "corpus", "smooth": "exp", **fields, "tok": "13a"}
    try:
        import sacrebleu
        from sacrebleu.metrics.bleu import BLEU
    except ImportError:
        return Absent(name="bleu", fields=made, reason="sacrebleu is not installed (extra: metrics)")
    # Effective order touches the score of a sentence only, and we take its counts.
    metric = BLEU(tokenize="13a", effective_order=True)
    rows = []
    for prediction, reference in zip(predictions, references, strict=True):
        one = metric.sentence_score(prediction, [reference])
        rows.append([*one.counts, *one.totals, one.sys_len, one.ref_len])

    def finish(sums_RK: Floats) -> Floats:
        found = []
        for sums_K in sums_RK.astype(np.int64).tolist():
            matched, runs = sums_K[:_MOST_N], sums_K[_MOST_N : 2 * _MOST_N]
            made_of = BLEU.compute_bleu(
                correct=matched, total=runs, sys_len=sums_K[-2], ref_len=sums_K[-1], smooth_method="exp"
            )
            found.append(made_of.score)
        return np.array(found, np.float64)

    fields_with_version = {**made, "sacrebleu": sacrebleu.__version__}
    sums_NK = np.array(rows, np.float64).reshape(-1, 2 * _MOST_N + 2)
    return Quantity(name="bleu", fields=fields_with_version, sums_NK=sums_NK, finish=finish)


def _rouge_score(pairs: Sequence[tuple[str, str]], fields: Mapping[str, str]) -> Quantity | Absent:
    """Return ROUGE-L as the rouge_score package has it (beta 1, no stemmer), or why not.

    Words and formula are the package's; its table of all pairs of words, gigabytes for a long text, is not.
    """
    made = {"form": "rouge_score", "beta": "1", "stem": "no", **fields, "tok": "rouge_score"}
    try:
        from rouge_score.scoring import fmeasure
        from rouge_score.tokenizers import DefaultTokenizer
    except ImportError:
        return Absent(name="rouge_l", fields=made, reason="rouge-score is not installed (extra: metrics)")
    tokenize = DefaultTokenizer(use_stemmer=False).tokenize
    values = []
    for mine, theirs in ((tokenize(prediction), tokenize(reference)) for prediction, reference in pairs):
        common = longest_common(mine, theirs)
        values.append(float(fmeasure(common / len(mine), common / len(theirs))) if common else 0.0)
    return mean_quantity("rouge_l", values, made, column="rouge_l_rouge_score")
