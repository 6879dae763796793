"""Metrics that other packages and their weights define: computed where both are on this machine, never downloaded.

RadGraph F1, CheXbert F1, BERTScore and METEOR run the published packages; RadCliQ combines columns. Whatever is missing
gives no number but the reason.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

from chexmix_cli.core.evals.reports.metrics.quantity import Absent, Found, mean_quantity

Values = list[float | None]

_OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
#: RadCliQ-v1, of RadGraph F1 (entities and relations), BERTScore, CheXbert similarity and BLEU-2, in this order: means,
#: spreads and weights of CXR-Report-Metric's published model. The weight of BLEU-2 is 4e-12 there: none.
_RADCLIQ_MEAN = (0.53792, 0.61757, 0.76479, 0.44738)
_RADCLIQ_SPREAD = (0.30283, 0.22431, 0.25394, 0.29893)
_RADCLIQ_WEIGHT = (-0.37708, -0.37030, -0.25262, 0.0)
#: Columns of CXR-Report-Metric's result that RadCliQ takes.
RADCLIQ_COLUMNS = ("radgraph_combined", "bertscore", "semb_score", "bleu_score")


def radcliq_v1(radgraph: float, bertscore: float, similarity: float, bleu2: float) -> float:
    """Return RadCliQ-v1 of one report: a predicted number of errors, lower is better."""
    values = (radgraph, bertscore, similarity, bleu2)
    parts = zip(values, _RADCLIQ_MEAN, _RADCLIQ_SPREAD, _RADCLIQ_WEIGHT, strict=True)
    return sum(weight * (value - mean) / spread for value, mean, spread, weight in parts)


@contextmanager
def offline() -> Iterator[None]:
    """Refuse every connection to another machine, and tell the packages that look for it."""

    def refuse(*_: Any) -> NoReturn:
        raise OSError("no network while metrics run: weights must be local")

    before = {name: os.environ.get(name) for name in _OFFLINE}
    connect, connect_ex = socket.socket.connect, socket.socket.connect_ex
    os.environ.update(_OFFLINE)
    socket.socket.connect, socket.socket.connect_ex = refuse, refuse  # type: ignore[method-assign]
    try:
        yield
    finally:
        socket.socket.connect, socket.socket.connect_ex = connect, connect_ex  # type: ignore[method-assign]
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def external_metrics(
    predictions: Sequence[str], references: Sequence[str], fields: Mapping[str, str], scores: Mapping[str, Values]
) -> Found:
    """Return METEOR, RadGraph F1, CheXbert F1, BERTScore and RadCliQ-v1, each a number or the reason there is none.

    Args:
        predictions, references: texts, item by item.
        fields: of every signature.
        scores: per-item columns of another tool, by name; they come first.
    """
    found = Found()
    for name, values in scores.items():
        column = f"file_{name}"
        found.quantities.append(mean_quantity(name, values, {"source": "file", **fields}, column=column))
    runs: tuple[tuple[str, Mapping[str, str], Callable[[Sequence[str], Sequence[str]], Values]], ...] = (
        ("meteor", {"form": "nltk"}, _meteor),
        ("radgraph_f1", {"form": "partial", "model": "radgraph-xl"}, _radgraph),
        ("chexbert_f1", {"set": "14", "unc": "pos", "avg": "report"}, _chexbert),
        ("bertscore", {"model": "distilroberta-base", "idf": "references", "rescale": "yes"}, _bertscore),
    )
    for name, own, run in runs:
        made = {**own, **fields}
        try:
            with offline():
                values = run(predictions, references)
        except ImportError as error:
            reason = f"{error.name or name} is not installed"
            found.quantities.append(Absent(name=name, fields=made, reason=reason))
        # What a package raises when its weights are not here is its own affair: any of them is a reason.
        except Exception as error:
            reason = f"its weights or data are not on this machine ({type(error).__name__})"
            found.quantities.append(Absent(name=name, fields=made, reason=reason))
        else:
            found.quantities.append(mean_quantity(name, values, made))
    found.quantities.append(_radcliq(scores, fields))
    return found


def _radcliq(scores: Mapping[str, Values], fields: Mapping[str, str]) -> Any:
    made = {"version": "v1", "better": "lower", "bleu_weight": "0", **fields}
    missing = [name for name in RADCLIQ_COLUMNS if name not in scores]
    if missing:
        return Absent(name="radcliq", fields=made, reason=f"no column {', '.join(missing)} in external.scores")
    rows = zip(*(scores[name] for name in RADCLIQ_COLUMNS), strict=True)
    values: Values = [None if None in row else radcliq_v1(*(value or 0.0 for value in row)) for row in rows]
    return mean_quantity("radcliq", values, made)


def _meteor(predictions: Sequence[str], references: Sequence[str]) -> Values:
    import nltk
    from nltk.translate.meteor_score import meteor_score

    from chexmix_cli.core.evals.reports.metrics.overlap import words

    nltk.data.find("corpora/wordnet.zip")
    return [float(meteor_score([words(b)], words(a))) for a, b in zip(predictions, references, strict=True)]


def _radgraph(predictions: Sequence[str], references: Sequence[str]) -> Values:
    from radgraph import F1RadGraph

    # A report without any entity scores 0 there, also where both sides have none: the package's definition.
    score = F1RadGraph(reward_level="partial", model_type="radgraph-xl")(hyps=list(predictions), refs=list(references))
    return [float(value) for value in score[1]]


def _chexbert(predictions: Sequence[str], references: Sequence[str]) -> Values:
    from f1chexbert import F1CheXbert

    labeller = F1CheXbert(device="cpu")
    pairs = [[labeller.get_label(text) for text in side] for side in (predictions, references)]
    values: Values = []
    for mine, theirs in zip(*pairs, strict=True):
        hits = sum(a == b == 1 for a, b in zip(mine, theirs, strict=True))
        named = sum(mine) + sum(theirs)
        values.append(1.0 if named == 0 else 2 * hits / named)
    return values


def _bertscore(predictions: Sequence[str], references: Sequence[str]) -> Values:
    from bert_score import BERTScorer

    scorer = BERTScorer(
        model_type="distilroberta-base", lang="en", rescale_with_baseline=True, idf=True, idf_sents=list(references)
    )
    return [float(value) for value in scorer.score(list(predictions), list(references))[2]]
