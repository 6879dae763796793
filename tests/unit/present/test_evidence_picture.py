from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from PIL import Image

from chexmix_cli.core.errors import MachineError
from chexmix_cli.core.present.evidence import evidence_picture


@dataclass
class Sentence:
    text: str
    badge: str
    evident_blocks: np.ndarray
    is_text_prior_only: bool = False


def draw(path, blocks: np.ndarray, count: int = 1) -> np.ndarray:
    film = np.full((64, 64), 90, np.uint8)
    sentences = [
        Sentence(f"Sentence {n} costs $5. " * 3, "rests on $5", np.maximum(blocks, 0), n == 1) for n in range(count)
    ]
    evidence_picture(film, sentences, path=path, note="model m")
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def test_the_block_that_matters_is_warm_and_the_others_are_the_film(tmp_path):
    blocks = np.zeros((2, 2))
    blocks[0, 1] = 0.3
    blocks[1, 0] = -0.5
    pixels = draw(tmp_path / "a.png", blocks)
    grey = draw(tmp_path / "b.png", np.full((2, 2), 1e-9))  # the words under it are the same
    changed = np.abs(pixels - grey).max(axis=2) > 12
    film_rows, film_columns = np.nonzero((np.abs(grey - 90) <= 2).all(axis=2))
    middle_y, middle_x = np.median(film_rows), np.median(film_columns)
    inside = changed[film_rows, film_columns]
    assert inside.any()
    assert (film_rows[inside] < middle_y + 2).all()
    assert (film_columns[inside] > middle_x - 2).all()


def test_the_picture_says_that_it_is_generated(tmp_path):
    draw(tmp_path / "many" / "a.png", np.eye(3), count=4)
    with Image.open(tmp_path / "many" / "a.png") as picture:
        assert "not for clinical use" in picture.text["Comment"]
        assert picture.text["DigitalSourceType"].endswith("TrainedAlgorithmicMedia")


def test_a_report_without_sentences_still_gives_a_picture(tmp_path):
    draw(tmp_path / "a.png", np.zeros((1, 1)), count=0)


def test_what_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(MachineError, match="the picture cannot be written"):
        draw(tmp_path / "file" / "a.png", np.zeros((2, 2)))
