"""Where scores come from: files, indexes, likelihoods."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from chexmix_cli.core.errors import DataError, SettingsError
from chexmix_cli.core.evals.metrics.ranks import CosineScores
from chexmix_cli.core.evals.retrieval import sources as retrieval_scores
from chexmix_cli.core.evals.retrieval.sources import LikelihoodPools, index_pairs, read_scores

ALL = slice(None)


def test_vectors_and_scores_are_read_with_their_ids(tmp_path):
    images, texts = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    save_file({"images": images, "texts": texts}, tmp_path / "v.safetensors", metadata={"ids": json.dumps(list("abc"))})
    ids, scores = read_scores(tmp_path / "v.safetensors")
    assert ids == ["a", "b", "c"]
    wanted = torch.nn.functional.cosine_similarity(images[:, None].double(), texts[None].double(), dim=2)
    assert torch.allclose(scores.tile(ALL, ALL), wanted)
    save_file({"scores": wanted}, tmp_path / "s.safetensors")
    ids, scores = read_scores(tmp_path / "s.safetensors")
    assert ids == ["0", "1", "2"]
    assert torch.equal(scores.tile(slice(1, 3), slice(0, 2)), wanted[1:3, :2])


@pytest.mark.parametrize(
    ("tensors", "metadata", "message"),
    [
        ({"images": torch.ones(2, 3)}, {}, "holds tensors images; expected images and texts"),
        ({"scores": torch.ones(2)}, {}, "holds tensors scores"),
        ({"scores": torch.ones(2, 3)}, {}, "2 images and 3 texts; expected pairs"),
        ({"images": torch.ones(3, 2), "texts": torch.ones(2, 2)}, {}, "3 images and 2 texts"),
        ({"scores": torch.tensor([[1.0, float("nan")], [0, 0]])}, {}, "not finite"),
        ({"scores": torch.ones(2, 2)}, {"ids": '["a", "a"]'}, "expected 2 different texts"),
        ({"scores": torch.ones(2, 2)}, {"ids": "a b"}, "not a list"),
    ],
)
def test_what_is_no_pairs_is_refused(tmp_path, tensors, metadata, message):
    save_file(tensors, tmp_path / "x.safetensors", metadata=metadata)
    with pytest.raises(DataError, match=message):
        read_scores(tmp_path / "x.safetensors")


def test_what_is_no_file_is_refused(tmp_path):
    (tmp_path / "x.safetensors").write_bytes(b"nothing of the kind")
    for name in ("x.safetensors", "none.safetensors"):
        with pytest.raises(DataError, match="cannot be read"):
            read_scores(tmp_path / name)


class Pair:
    """An index as far as pairs are concerned."""

    folder = "index"

    def __init__(self, images, reports):
        self._ids = {"images": images, "reports": reports}

    def ids(self, kind):
        return self._ids[kind]

    def vectors(self, kind):
        return torch.arange(len(self._ids[kind]))[:, None].float() + (10 if kind == "reports" else 0)


def test_pairs_of_an_index_are_ids_with_both():
    ids, images, reports = index_pairs(Pair(["a", "b", "c"], ["c", "x", "a"]))
    assert ids == ["a", "c"]
    assert images[:, 0].tolist() == [0, 2]
    assert reports[:, 0].tolist() == [12, 10]
    with pytest.raises(DataError, match="no id has both"):
        index_pairs(Pair(["a"], ["b"]))


def test_the_best_by_cosine_are_put_in_the_order_of_their_likelihoods(monkeypatch):
    images, texts = torch.randn(2, 30, 5, generator=torch.Generator().manual_seed(0))
    likelihood = torch.randn(30, 30, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    asked = []

    def score(image, reports):
        asked.append(len(reports))
        return likelihood[image, reports].tolist()

    pool = np.array([2, 3, 5, 7, 11, 13, 17, 19, 23, 29])
    cosines = CosineScores(images, texts)
    moved = []
    pools = LikelihoodPools(cosines, score, top=3, progress=lambda done, total: moved.append((done, total)))
    to_reports, to_images = pools(pool)
    cosine = cosines.tile(torch.from_numpy(pool), torch.from_numpy(pool))
    own = likelihood[pool][:, pool]
    for one, cosine_one, own_one in (
        (to_reports.tile(ALL, ALL), cosine, own),
        (to_images.tile(ALL, ALL).T, cosine.T, own.T),
    ):
        for row in range(10):
            head = cosine_one[row].argsort(descending=True)[:3]
            wanted = [*head[own_one[row][head].argsort(descending=True)].tolist()]
            wanted += cosine_one[row].argsort(descending=True)[3:].tolist()
            assert one[row].argsort(descending=True).tolist() == wanted
    assert all(3 <= count <= 10 for count in asked)
    assert moved[-1] == (10, 10)
    every, _ = LikelihoodPools(cosines, score, top=0, progress=lambda *_: None)(pool)
    assert torch.equal(every.tile(ALL, ALL) - 1e4 > 0, own > 0)
    monkeypatch.setattr(retrieval_scores, "_MOST_SCORED", 9)
    with pytest.raises(SettingsError, match="the likelihood of 10 pairs") as caught:
        pools(pool)
    assert "pool.size" in caught.value.hint
