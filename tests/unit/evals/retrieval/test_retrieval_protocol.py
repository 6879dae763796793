"""Numbers of retrieval against hand-computed cases and a sorting oracle; the traps one by one."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from chexmix_cli.core.evals.metrics.ranks import CosineScores, MatrixScores
from chexmix_cli.core.evals.result import Evaluation
from chexmix_cli.core.evals.retrieval.protocol import Pairs, evaluate_pairs, recalls_and_ranks
from chexmix_cli.core.evals.retrieval.sources import pools_of
from chexmix_cli.core.settings.evaluation import BootstrapSettings
from chexmix_cli.core.settings.retrieval import ClassPoolSettings, PoolSettings, RetrievalEvaluationSettings

NO_BOOTSTRAP = BootstrapSettings(resamples=0)


def evaluate(pairs, scores, seed=0, **settings):
    settings = RetrievalEvaluationSettings(**{"bootstrap": NO_BOOTSTRAP, **settings})
    return evaluate_pairs(pairs, pools_of(scores), settings, {"scorer": "test"}, seed)


def values(result, **fields):
    """Return name -> value of the numbers with these fields; random baselines only where asked for."""
    fields = {"scorer": "test", **fields}
    return {
        one.name: one.value
        for one in result.measurements
        if all(one.fields.get(name) == value for name, value in fields.items())
    }


def pairs_of(count, texts=None, labels=None, patients=None):
    ids = [f"image{number}" for number in range(count)]
    return Pairs(ids=ids, patients=patients or [None] * count, texts=texts, labels=labels)


def test_a_hand_computed_case():
    """Ranks 1, 2 (tied with another: 1.5), 3 of reports; 1, 1.5, 3 of images."""
    scores = torch.tensor([[9.0, 1.0, 2.0], [4.0, 4.0, 0.0], [5.0, 4.0, 1.0]])
    result = evaluate(pairs_of(3), MatrixScores(scores), relevance=("pair",))
    found = values(result, direction="image-to-text")
    assert found == pytest.approx(
        {"R@1": 1 / 3, "R@5": 1, "R@10": 1, "median rank": 1.5, "mean rank": 5.5 / 3, "MRR": (1 + 1 / 1.5 + 1 / 3) / 3}
    )
    found = values(result, direction="text-to-image")
    # Columns: own 9 is best; own 4 is level with the third row's; own 1 is behind 2, before 0.
    assert found["mean rank"] == pytest.approx((1 + 1.5 + 2) / 3)
    assert values(result)["R@sum"] == pytest.approx(1 / 3 + 1 + 1 + 1 / 3 + 1 + 1)
    assert values(result, scorer="random", direction="image-to-text")["R@1"] == pytest.approx(1 / 3)


def test_identical_texts_are_one_candidate_and_any_of_their_images_counts():
    texts = ["Normal.", "Effusion.", " Normal. ", "Normal."]
    scores = torch.tensor(
        [
            [0.1, 0.9, 0.1, 0.1],  # the normal text is behind the other one: rank 2 of 2
            [0.8, 0.2, 0.8, 0.8],  # rank 2
            [0.7, 0.1, 0.7, 0.7],  # 1
            [0.6, 0.3, 0.6, 0.6],  # 1
        ]
    )
    result = evaluate(pairs_of(4, texts), MatrixScores(scores), relevance=("text",))
    found = values(result, direction="image-to-text", pool="2")
    assert found["mean rank"] == pytest.approx((2 + 2 + 1 + 1) / 4)
    found = values(result, direction="text-to-image", pool="4")
    # Two queries. Normal: best of its images scores 0.7, behind 0.8. Effusion: 0.2, behind 0.9 and 0.3.
    assert found["mean rank"] == pytest.approx((2 + 3) / 2)
    random = values(result, scorer="random", direction="text-to-image")
    assert random["R@1"] == pytest.approx((3 / 4 + 1 / 4) / 2)
    pair = values(evaluate(pairs_of(4, texts), MatrixScores(scores), relevance=("pair",)), direction="image-to-text")
    assert pair["mean rank"] == pytest.approx((3 + 4 + 2 + 2) / 4)  # by pair three equal texts are a tie


def test_the_same_labels_count_and_what_is_not_stated_matches_nothing():
    labels = [{"A": 1, "B": None}, {"A": 0, "B": 1}, {"A": 1}, {"A": None}]
    scores = torch.tensor([[0.1, 0.5, 0.9, 0.8], [0.9, 0.8, 0.1, 0.0], [0.9, 0.1, 0.2, 0.0], [0.9, 0.8, 0.7, 0.6]])
    result = evaluate(pairs_of(4, labels=labels), MatrixScores(scores), relevance=("labels",))
    found = values(result, direction="image-to-text")
    assert found["mean rank"] == pytest.approx((1 + 2 + 1) / 3)
    assert result.columns["rank_image-to-text_labels"] == [1.0, 2.0, 1.0, None]
    assert [one.n for one in result.measurements if one.name == "MRR"] == [3, 3]


def test_random_vectors_reach_the_random_baseline():
    images, texts = torch.randn(2, 2000, 8, generator=torch.Generator().manual_seed(1))
    result = evaluate(pairs_of(2000), CosineScores(images, texts), relevance=("pair",), pool=PoolSettings(size=100))
    found, random = values(result, direction="image-to-text"), values(result, scorer="random")
    assert random == pytest.approx({"R@1": 0.01, "R@5": 0.05, "R@10": 0.1})
    assert abs(found["R@10"] - 0.1) < 0.05
    assert abs(found["mean rank"] - 50.5) < 6


def test_a_perfect_model_and_its_negative():
    vectors = torch.randn(60, 8, generator=torch.Generator().manual_seed(1))
    found = values(evaluate(pairs_of(60), CosineScores(vectors, vectors), relevance=("pair",)), relevance="pair")
    assert found["R@sum"] == 6.0
    found = values(
        evaluate(pairs_of(60), CosineScores(vectors, -vectors), relevance=("pair",)), direction="image-to-text"
    )
    assert (found["R@1"], found["mean rank"]) == (0, 60)


def test_pools_are_the_pools_of_their_seeds():
    images, texts = torch.randn(2, 40, 4, generator=torch.Generator().manual_seed(1))
    pairs = pairs_of(40)
    both = evaluate(pairs, CosineScores(images, texts), relevance=("pair",), pool=PoolSettings(size=10, seeds=2))
    single = [
        evaluate(pairs, CosineScores(images, texts), seed, relevance=("pair",), pool=PoolSettings(size=10, seeds=1))
        for seed in (0, 1)
    ]
    for name, value in values(both, direction="image-to-text").items():
        apart = [values(one, direction="image-to-text")[name] for one in single]
        assert value == pytest.approx(np.mean(apart)), name
    assert both.measurements[0].fields["seeds"] == "0..1"
    order = np.random.default_rng(0).permutation(40)
    mixed = Pairs(ids=[pairs.ids[place] for place in order], patients=[None] * 40)
    again = evaluate(
        mixed, CosineScores(images[order], texts[order]), relevance=("pair",), pool=PoolSettings(size=10, seeds=2)
    )
    assert values(again, direction="image-to-text") == pytest.approx(values(both, direction="image-to-text"))


def test_intervals_are_by_patient_and_hold_the_value():
    images = torch.randn(60, 4, generator=torch.Generator().manual_seed(1))
    texts = images + 0.7 * torch.randn(60, 4, generator=torch.Generator().manual_seed(2))
    scores = CosineScores(images, texts)
    widths = []
    for patients in (list(range(60)), [number // 20 for number in range(60)]):
        result = evaluate(
            pairs_of(60, patients=patients),
            scores,
            relevance=("pair",),
            bootstrap=BootstrapSettings(resamples=200),
        )
        (one,) = [each for each in result.measurements if each.name == "MRR" and "text-to" in each.fields["direction"]]
        assert one.interval[0] <= one.value <= one.interval[1]
        widths.append(one.interval[1] - one.interval[0])
        assert one.value == pytest.approx(np.mean(result.columns[one.statistic.column]))
    assert widths[0] != widths[1]


def test_the_class_balanced_pool():
    classes = ("A", "B")
    labels = [
        {"A": 1, "B": 0},
        {"A": 0, "B": 1},
        {"A": 1, "B": 1},
        {"A": 1},
        {"B": 1},
        {"A": 1},
        {"B": 1},
        {"A": 1, "B": -1},
    ]
    vectors = torch.tensor([[1.0, 0], [0, 1], [1, 1], [1, 0], [0, 1], [1, 0], [1, 0], [-1, -1]])
    settings = {"relevance": ("pair",), "classes": ClassPoolSettings(classes=classes, per_class=3)}
    result = evaluate(pairs_of(8, labels=labels), CosineScores(vectors, vectors), **settings)
    found = values(result, relevance="class", direction="image-to-text", pool="2x3")
    # A's three images find their three reports and one of B's (which lies with them) at 1, then B's two at 0.
    # K 5: 3 / 5 for A; for B's two, both at 1, then four at 0 for three places, one of them B's: (2 + 3/4) / 5;
    # B's stray one: four at 1, of them one B's, then one of two at 0, both B's: (1 + 1) / 5.
    assert found["P@5"] == pytest.approx((3 * 3 / 5 + 2 * 2.75 / 5 + 2 / 5) / 6)
    # Ranks: A 1 + 1/4; B's two 1; the stray one 1 + 3/2.
    assert (found["hit@1"], found["hit@5"], found["hit@10"]) == (pytest.approx(2 / 6), 1, 1)
    assert result.columns["class_2x3"] == [0.0, 1.0, None, 0.0, 1.0, 0.0, 1.0, None]
    short = evaluate(pairs_of(8, labels=labels), CosineScores(vectors, vectors), relevance=("pair",))
    (missing,) = short.missing
    assert missing["what"] == "class pool 5x200"
    assert "Atelectasis 0" in missing["reason"]


def test_what_is_not_known_is_missing_by_name():
    result = evaluate(pairs_of(3), MatrixScores(torch.eye(3)))
    assert [one["what"] for one in result.missing] == ["relevance text", "relevance labels", "class pool 5x200"]
    assert {one.fields["relevance"] for one in result.measurements} == {"pair"}


def test_curves_fall_with_the_pool_and_rise_with_k():
    images = torch.randn(120, 6, generator=torch.Generator().manual_seed(1))
    texts = images + torch.randn(120, 6, generator=torch.Generator().manual_seed(2))
    result = evaluate(
        pairs_of(120), CosineScores(images, texts), relevance=("pair",), pool=PoolSettings(curve=(20, 60, 120, 500))
    )
    depth, size = result.curves
    assert (depth.name, size.name) == ("retrieval-recall", "retrieval-pool-size")
    assert list(size.series[0].x) == [20, 60, 120]
    for line in size.series:
        assert line.y[0] > line.y[-1]
    for line in depth.series:
        assert list(line.y) == sorted(line.y)
    assert size.series[0].y[-1] == pytest.approx(values(result, direction="image-to-text")["R@10"])


def test_a_direction_without_queries_has_no_number():
    found = recalls_and_ranks((np.array([np.nan]), np.array([1.0, 3.0])))
    assert np.isnan(found[:6]).all()
    np.testing.assert_allclose(found[6:12], [0.5, 1, 1, 2, 2, 2 / 3])
    assert np.isnan(found[12])


def test_the_result_is_an_evaluation():
    result = evaluate(pairs_of(5, texts=list("abcde")), MatrixScores(torch.eye(5)), relevance=("pair", "text"))
    evaluation = Evaluation(
        task="retrieval",
        measurements=result.measurements,
        item_ids=[f"image{number}" for number in range(5)],
        item_groups=list(range(5)),
        columns=result.columns,
        curves=result.curves,
        missing=result.missing,
    )
    signature = evaluation.to_dict()["metrics"][0]["signature"]
    assert signature.startswith("R@1|scorer:test|ties:mid-rank|relevance:pair|direction:image-to-text|pool:5|n:5|v:")
