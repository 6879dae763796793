from __future__ import annotations

import builtins

import pytest
import torch

from chexmix_cli.core.errors import MachineError, SettingsError
from chexmix_cli.core.infer.retrieval.search import FaissGallery, best, nearest


@pytest.fixture
def gallery():
    """Return unit vectors with many duplicates, so that there are ties everywhere."""
    vectors = torch.nn.functional.normalize(torch.randn(9, 8, generator=torch.Generator().manual_seed(2)), dim=1)
    return vectors[torch.arange(60) % 9]


@pytest.fixture
def queries():
    return torch.nn.functional.normalize(torch.randn(5, 8, generator=torch.Generator().manual_seed(3)), dim=1)


@pytest.mark.parametrize("rows", [1, 7, 13, 60, 100])
@pytest.mark.parametrize("count", [1, 10, 60, 80])
def test_blocks_give_what_sorting_all_gives_ties_by_place(gallery, queries, rows, count):
    found_score, found_place = nearest(queries, gallery.split(rows), count)
    scores = (queries.double() @ gallery.double().T).float()
    for row, (score, place) in enumerate(zip(found_score.tolist(), found_place.tolist(), strict=True)):
        wanted = sorted(range(60), key=lambda one: (-scores[row, one].item(), one))[:count]
        assert place == wanted
        assert score == pytest.approx([scores[row, one].item() for one in wanted])


def test_an_empty_gallery_has_nothing():
    score, place = nearest(torch.ones(2, 4), [], 3)
    assert score.shape == place.shape == (2, 0)


def test_the_best_of_a_row_take_ties_from_the_left():
    score, place = best(torch.tensor([[1.0, 2.0, 2.0, 2.0], [4.0, 3.0, 2.0, 1.0]]), 2)
    assert place.tolist() == [[1, 2], [0, 1]]
    assert score.tolist() == [[2, 2], [4, 3]]


def test_a_flat_faiss_index_finds_the_same(queries):
    pytest.importorskip("faiss", reason="faiss-cpu, the extra scale, is not installed")
    gallery = torch.nn.functional.normalize(torch.randn(300, 8, generator=torch.Generator().manual_seed(4)), dim=1)
    exact_score, exact_place = nearest(queries, gallery.split(64), 20)
    score, place = FaissGallery(gallery.split(64), 8, "Flat").nearest(queries, 20)
    assert torch.equal(place, exact_place)
    assert torch.allclose(score, exact_score, atol=1e-6)
    _, trained = FaissGallery(gallery.split(64), 8, "IVF4,Flat").nearest(queries, 5)
    assert trained.shape == (5, 5)
    with pytest.raises(SettingsError, match="'Nonsense' cannot be made"):
        FaissGallery(gallery.split(64), 8, "Nonsense")


def test_without_the_package_it_says_which_extra(monkeypatch, gallery):
    real = builtins.__import__

    def refuse(name, *arguments, **named):
        if name == "faiss":
            raise ImportError(name)
        return real(name, *arguments, **named)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(MachineError, match="faiss is not installed") as caught:
        FaissGallery([gallery], 8, "Flat")
    assert "chexmix[scale]" in caught.value.hint
