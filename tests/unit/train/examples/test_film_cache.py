"""Films in files: the same pictures as from their sources, written once, by all ranks, and whole or not there."""

from __future__ import annotations

import pickle

import pytest
import torch
from PIL import Image

from chexmix_cli.core.errors import MachineError
from chexmix_cli.core.train.examples import film_cache
from chexmix_cli.core.train.examples.film_cache import cache_films
from chexmix_cli.core.train.examples.films import Picture, reduced


@pytest.fixture
def films(draw_film, trained_model, monkeypatch):
    """Return films of several sizes, one of them in colour, seven to three files."""
    monkeypatch.setattr(film_cache, "_PER_FILE", 3)
    drawn = [draw_film(number, side=60 + number) for number in range(6)]
    return [reduced(film, trained_model) for film in [*drawn, Image.new("RGB", (50, 70), (9, 80, 200))]]


def silent(*_):
    pass


def assert_same(found, expected):
    assert len(found) == len(expected)
    for place in reversed(range(len(expected))):
        assert isinstance(found[place], Picture)
        for mine, theirs in zip(found[place], expected[place], strict=True):
            assert torch.equal(mine, theirs)


def test_pictures_come_back_as_they_were(films, tmp_path):
    moves = []
    found = cache_films(films, tmp_path, workers=0, progress=lambda done, total: moves.append((done, total)))
    assert_same(found, films)
    assert moves == [(number, 7) for number in range(1, 8)]
    assert_same(pickle.loads(pickle.dumps(found)), films)
    assert len(pickle.dumps(found)) < 2000, "films travel"


def test_what_is_there_is_not_read_again(films, tmp_path):
    class Counted(list):
        asked: list[int] = []

        def __getitem__(self, index):
            self.asked.append(index)
            return super().__getitem__(index)

    counted = Counted(films)
    cache_films(counted, tmp_path, workers=0, progress=silent)
    (tmp_path / "films-00001.json").unlink()
    counted.asked.clear()
    assert_same(cache_films(counted, tmp_path, workers=0, progress=silent), films)
    assert counted.asked[:3] == [3, 4, 5]


def test_ranks_write_files_in_turn(films, tmp_path, monkeypatch):
    monkeypatch.setattr(film_cache, "world_size", lambda: 2)
    monkeypatch.setattr(film_cache, "rank", lambda: 1)
    with pytest.raises(MachineError, match=r"films-00000\.json: a file of films in the run's folder is missing"):
        cache_films(films, tmp_path, workers=0, progress=silent)
    assert [path.name for path in sorted(tmp_path.glob("*.bin"))] == ["films-00001.bin"]
    monkeypatch.setattr(film_cache, "rank", lambda: 0)
    assert_same(cache_films(films, tmp_path, workers=0, progress=silent), films)


def test_a_file_that_is_cut_is_refused(films, tmp_path):
    cache_films(films, tmp_path, workers=0, progress=silent)
    path = tmp_path / "films-00002.bin"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(MachineError, match=r"films-00002\.bin: a file of films .* missing or cut"):
        cache_films(films, tmp_path, workers=0, progress=silent)
