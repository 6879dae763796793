"""Metrics of other packages: run where they are here, never downloaded; RadCliQ by hand."""

from __future__ import annotations

import os
import socket
import sys
from types import ModuleType

import pytest

from chexmix_cli.core.evals.reports.metrics.external import (
    RADCLIQ_COLUMNS,
    external_metrics,
    offline,
    radcliq_v1,
)
from chexmix_cli.core.evals.reports.metrics.quantity import Absent, Quantity

TEXTS = (["Clear lungs.", "Edema."], ["Clear lungs.", "No edema."])


def by_name(found) -> dict[str, Quantity | Absent]:
    return {one.name: one for one in found.quantities}


def test_radcliq_by_hand():
    assert radcliq_v1(0.53792, 0.61757, 0.76479, 0.44738) == pytest.approx(0.0)
    # One spread above the mean of each: the sum of the weights. BLEU does not move it.
    assert radcliq_v1(0.84075, 0.84188, 1.01873, 0.1) == pytest.approx(-0.37708 - 0.37030 - 0.25262)


def test_radcliq_combines_columns_of_a_file():
    scores = dict.fromkeys(RADCLIQ_COLUMNS, [0.5, None])
    found = by_name(external_metrics(*TEXTS, {}, scores))
    assert found["radcliq"].column[1] == [pytest.approx(radcliq_v1(0.5, 0.5, 0.5, 0.5)), None]
    assert found["semb_score"].column[1] == [0.5, None]
    missing = by_name(external_metrics(*TEXTS, {}, {"bertscore": [0.5, 0.5]}))["radcliq"]
    assert missing.reason == "no column radgraph_combined, semb_score, bleu_score in external.scores"


def test_nothing_is_reached_while_metrics_run():
    before = os.environ.get("HF_HUB_OFFLINE")
    with offline():
        assert os.environ["HF_HUB_OFFLINE"] == "1"
        with socket.socket() as one, pytest.raises(OSError, match="weights must be local"):
            one.connect(("127.0.0.1", 9))
    assert os.environ.get("HF_HUB_OFFLINE") == before
    with socket.socket() as one, pytest.raises(ConnectionRefusedError):
        one.connect(("127.0.0.1", 9))


def module(monkeypatch, name: str, **members: object) -> None:
    made = ModuleType(name)
    for member, value in members.items():
        setattr(made, member, value)
    monkeypatch.setitem(sys.modules, name, made)


class WantsTheNetwork:
    def __init__(self, *_: object, **__: object) -> None:
        with socket.socket() as one:
            one.connect(("127.0.0.1", 9))


def test_what_is_missing_is_null_with_its_reason(monkeypatch):
    monkeypatch.setitem(sys.modules, "radgraph", None)
    module(monkeypatch, "f1chexbert", F1CheXbert=WantsTheNetwork)
    module(monkeypatch, "bert_score", BERTScorer=WantsTheNetwork)
    found = by_name(external_metrics(*TEXTS, {}, {}))
    assert found["radgraph_f1"].reason == "radgraph is not installed"
    for name in ("chexbert_f1", "bertscore"):
        assert found[name].reason == "its weights or data are not on this machine (OSError)"


def test_packages_that_are_here_are_run(monkeypatch):
    class RadGraph:
        def __init__(self, reward_level, model_type):
            assert (reward_level, model_type) == ("partial", "radgraph-xl")

        def __call__(self, hyps, refs):
            return 0.5, [float(a == b) for a, b in zip(hyps, refs, strict=True)], None, None

    class CheXbert:
        def __init__(self, device):
            assert device == "cpu"

        def get_label(self, text):
            return [int("edema" in text.lower())] * 14

    class Bert:
        def __init__(self, **settings):
            assert settings["idf_sents"] == TEXTS[1]

        def score(self, predictions, references):
            return None, None, [0.25] * len(predictions)

    module(monkeypatch, "radgraph", F1RadGraph=RadGraph)
    module(monkeypatch, "f1chexbert", F1CheXbert=CheXbert)
    module(monkeypatch, "bert_score", BERTScorer=Bert)
    found = by_name(external_metrics(*TEXTS, {}, {}))
    assert found["radgraph_f1"].column[1] == [1.0, 0.0]
    assert found["chexbert_f1"].column[1] == [1.0, 1.0]
    assert found["bertscore"].column[1] == [0.25, 0.25]


def test_meteor_is_nltks_where_its_data_is(monkeypatch):
    import nltk
    from nltk.translate import meteor_score

    monkeypatch.setattr(nltk.data, "find", lambda path: path)
    monkeypatch.setattr(meteor_score, "meteor_score", lambda references, words: float(references == [words]))
    assert by_name(external_metrics(*TEXTS, {}, {}))["meteor"].column[1] == [1.0, 0.0]
