"""Metrics of other packages: run where they are here, never downloaded; RadCliQ by hand."""

from __future__ import annotations

import importlib.metadata
import inspect
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
from chexmix_cli.core.settings.report_evaluation import ExternalSettings

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
        with pytest.raises(OSError, match="weights must be local"):
            socket.getaddrinfo("localhost", 9)
    assert socket.getaddrinfo("localhost", 9)
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


def only(**settings) -> dict[str, Quantity | Absent]:
    return by_name(external_metrics(*TEXTS, {}, {}, ExternalSettings(**settings)))


def test_suites_that_are_not_installed_say_so_with_a_hint(monkeypatch):
    def nothing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", nothing)
    monkeypatch.setitem(sys.modules, "CRIMSON", None)
    found = only(crimson=True)
    assert found["radeval"].reason.startswith("radeval is not installed (pip install radeval;")
    assert found["radeval"].reason.endswith(": ratescore, radcliq, srrbert, temporal, radeval_bertscore")
    assert found["crimson"].reason.startswith("crimson-score is not installed (pip install crimson-score;")
    assert not {"radeval", "crimson", "meteor"} & set(only(run=False))


def test_radevals_metrics_are_run_one_by_one(monkeypatch, capsys):
    """Its interface as test_radeval_itself_gives_values_by_report finds it, where the package is installed."""

    class RadEval:
        def __init__(self, metrics, per_sample, show_progress):
            assert (per_sample, show_progress) == (True, False)
            print("loading")
            if metrics == ["ratescore"]:
                raise OSError("no weights")
            self.name = metrics[0]

        def __call__(self, refs, hyps):
            assert (hyps, refs) == TEXTS
            return {f"{self.name}_f1": [0.5, 1], f"{self.name}_recall": [0.0, 1.0]}

    module(monkeypatch, "radeval", RadEval=RadEval)
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "9.9")
    found = only(radeval=("ratescore", "temporal"))
    assert found["radeval_ratescore"].reason == "its weights or data are not on this machine (OSError)"
    assert found["radeval_temporal_f1"].column == ("radeval_temporal_f1", [0.5, 1.0])
    assert found["radeval_temporal_recall"].fields == {"package": "radeval 9.9"}
    assert capsys.readouterr().out == ""


def test_radeval_itself_gives_values_by_report():
    pytest.importorskip("radeval", reason="radeval is not installed")
    found = only(radeval=("rouge",))
    assert found["radeval_rouge1"].column[1] == [1.0, pytest.approx(2 / 3)]
    assert found["radeval_rougeL"].fields["package"].startswith("radeval ")


def test_crimson_is_asked_for_all_reports_and_an_unreadable_answer_has_no_value(monkeypatch):
    class CRIMSONScore:
        def __init__(self, api):
            assert api == "hf"

        def evaluate_batch(self, references, predictions):
            assert (predictions, references) == TEXTS
            return [{"crimson_score": -0.25}, None]

    module(monkeypatch, "CRIMSON", CRIMSONScore=CRIMSONScore)
    assert only(crimson=True)["crimson"].column == ("crimson", [-0.25, None])


def test_crimson_itself_has_the_interface_that_is_used():
    """Its model of 4 billion weights does not run here: what its class takes, and what it makes of a judge's answer."""
    crimson = pytest.importorskip("CRIMSON", reason="crimson-score is not installed").CRIMSONScore
    assert list(inspect.signature(crimson).parameters)[0] == "api"
    assert list(inspect.signature(crimson.evaluate_batch).parameters)[1:3] == [
        "reference_findings_list",
        "predicted_findings_list",
    ]
    finding = {"id": "R1", "clinical_significance": "urgent"}
    answer = {"reference_findings": [finding], "errors": {"missing_findings": ["R1"]}}
    assert crimson.__new__(crimson)._calculate_crimson(answer)["crimson_score"] == 0
