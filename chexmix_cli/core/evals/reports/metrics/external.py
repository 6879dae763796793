"""Metrics that other packages and their weights define: computed where both are on this machine, never downloaded.

RadGraph F1, CheXbert F1, BERTScore and METEOR run the published packages, as do the metrics of RadEval (Xu et al. 2025)
and CRIMSON (Baharoon et al. 2026); RadCliQ combines columns. Whatever is missing gives no number but the reason.
"""

from __future__ import annotations

import io
import os
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any, NoReturn

from chexmix_cli.core.evals.reports.metrics.quantity import Absent, Found, mean_quantity
from chexmix_cli.core.settings.report_evaluation import ExternalSettings

Values = list[float | None]

_OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
#: RadCliQ-v1, of RadGraph F1 (entities and relations), BERTScore, CheXbert similarity and BLEU-2, in this order: means,
#: spreads and weights of CXR-Report-Metric's published model. The weight of BLEU-2 is 4e-12 there: none.
_RADCLIQ_MEAN = (0.53792, 0.61757, 0.76479, 0.44738)
_RADCLIQ_SPREAD = (0.30283, 0.22431, 0.25394, 0.29893)
_RADCLIQ_WEIGHT = (-0.37708, -0.37030, -0.25262, 0.0)
_CRIMSON_MODEL = "medgemma-4b-it-crimson"
#: Packages by the module that is missed.
_NOT_INSTALLED = {
    "radeval": "radeval is not installed (pip install radeval; it wants its models in the local cache)",
    "crimson": "crimson-score is not installed (pip install crimson-score; it wants its model in the local cache)",
}
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
    connect, connect_ex, look_up = socket.socket.connect, socket.socket.connect_ex, socket.getaddrinfo
    os.environ.update(_OFFLINE)
    socket.socket.connect, socket.socket.connect_ex = refuse, refuse  # type: ignore[method-assign]
    # A name that is looked up tells another machine too.
    socket.getaddrinfo = refuse  # type: ignore[assignment]
    try:
        yield
    finally:
        socket.socket.connect, socket.socket.connect_ex = connect, connect_ex  # type: ignore[method-assign]
        socket.getaddrinfo = look_up
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def external_metrics(
    predictions: Sequence[str],
    references: Sequence[str],
    fields: Mapping[str, str],
    scores: Mapping[str, Values],
    settings: ExternalSettings | None = None,
) -> Found:
    """Return the metrics of other packages, each a number or the reason there is none.

    Args:
        predictions, references: texts, item by item.
        fields: of every signature.
        scores: per-item columns of another tool, by name; they come first.
        settings: what is run; default: what is by default.
    """
    settings = ExternalSettings() if settings is None else settings
    found = Found()
    for name, values in scores.items():
        column = f"file_{name}"
        found.quantities.append(mean_quantity(name, values, {"source": "file", **fields}, column=column))
    if settings.run:
        _run_packages(predictions, references, fields, found)
        _run_radeval(predictions, references, fields, found, settings.radeval)
    if settings.crimson:
        own = {"model": _CRIMSON_MODEL, "context": "none", "range": "-1..1"}
        _attempt("crimson", {**own, **fields}, lambda: {"crimson": _crimson(predictions, references)}, found)
    found.quantities.append(_radcliq(scores, fields))
    return found


def _run_packages(
    predictions: Sequence[str], references: Sequence[str], fields: Mapping[str, str], found: Found
) -> None:
    runs: tuple[tuple[str, Mapping[str, str], Callable[[Sequence[str], Sequence[str]], Values]], ...] = (
        ("meteor", {"form": "nltk"}, _meteor),
        ("radgraph_f1", {"form": "partial", "model": "radgraph-xl"}, _radgraph),
        ("chexbert_f1", {"set": "14", "unc": "pos", "avg": "report"}, _chexbert),
        ("bertscore", {"model": "distilroberta-base", "idf": "references", "rescale": "yes"}, _bertscore),
    )
    for name, own, run in runs:
        _attempt(name, {**own, **fields}, lambda: {name: run(predictions, references)}, found)  # noqa: B023


def _run_radeval(
    predictions: Sequence[str],
    references: Sequence[str],
    fields: Mapping[str, str],
    found: Found,
    names: Sequence[str],
) -> None:
    """Run metrics of RadEval one by one: one that lacks its weights takes no other with it."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        made = {"package": f"radeval {version('radeval')}", **fields}
    except PackageNotFoundError:
        if names:
            reason = f"{_NOT_INSTALLED['radeval']}: {', '.join(names)}"
            found.quantities.append(Absent(name="radeval", fields=dict(fields), reason=reason))
        return
    for name in names:
        _attempt(f"radeval_{name}", made, lambda: _radeval(name, predictions, references), found)  # noqa: B023


def _attempt(name: str, fields: Mapping[str, str], run: Callable[[], Mapping[str, Values]], found: Found) -> None:
    """Run a package: what it gives, or one absent number of this name."""
    try:
        # Some say what they load, or could not, on stdout, where records go, and among ours on stderr.
        with offline(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            values = run()
    except ImportError as error:
        package = (error.name or name).split(".")[0]
        reason = _NOT_INSTALLED.get(package.lower(), f"{package} is not installed")
    # What a package raises when its weights are not here is its own affair: any of them is a reason.
    except Exception as error:
        reason = f"its weights or data are not on this machine ({type(error).__name__})"
    else:
        found.quantities += [mean_quantity(one, column, fields) for one, column in values.items()]
        return
    found.quantities.append(Absent(name=name, fields=fields, reason=reason))


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


def _radeval(name: str, predictions: Sequence[str], references: Sequence[str]) -> dict[str, Values]:
    """Return RadEval's per-report values: some of its metrics have several."""
    from radeval import RadEval

    scorer = RadEval(metrics=[name], per_sample=True, show_progress=False)
    columns = scorer(refs=list(references), hyps=list(predictions))
    return {
        key if key.startswith("radeval_") else f"radeval_{key}": [float(value) for value in values]
        for key, values in columns.items()
    }


def _crimson(predictions: Sequence[str], references: Sequence[str]) -> Values:
    """Return CRIMSON of each report; None where the judge's answer cannot be read."""
    from CRIMSON import CRIMSONScore

    judged = CRIMSONScore(api="hf").evaluate_batch(list(references), list(predictions))
    return [None if one is None else float(one["crimson_score"]) for one in judged]
