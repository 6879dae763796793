"""Codes of a manifest's splits: those that inference makes, by the same guarded tokenizer."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from chexmix_cli.core.data.presets import resolve_preset
from chexmix_cli.core.errors import MachineError
from chexmix_cli.core.infer.image_tokenizer import ImageTokenizer
from chexmix_cli.core.infer.manifest_images import encode_rows
from chexmix_cli.core.models.vqgan import Vqgan
from chexmix_cli.core.settings.finetuning import FilmSettings
from chexmix_cli.core.settings.inference import InputSettings
from chexmix_cli.core.train.examples.films import load_films
from chexmix_cli.core.train.examples.splits import encode_films, encode_splits, read_splits, training_tokenizer


@pytest.fixture
def manifest(draw_film, tmp_path):
    """Return a manifest of 8 train and 4 val films, as large as inference asks for."""
    lines = []
    for index in range(12):
        draw_film(index, side=80).save(tmp_path / f"film{index}.png")
        row = {"id": f"film{index}", "file": f"film{index}.png", "split": "train" if index < 8 else "val"}
        lines.append(json.dumps(row) + "\n")
    (tmp_path / "manifest.jsonl").write_text("".join(lines))
    return tmp_path / "manifest.jsonl"


@pytest.fixture
def vqgan(trained_model):
    torch.manual_seed(0)
    return Vqgan(trained_model.vqgan)


def silent(*_):
    pass


def test_train_rows_have_variants_and_the_first_is_what_inference_encodes(manifest, trained_model, vqgan):
    rows, moves = read_splits(manifest), []
    codes = encode_splits(
        rows,
        vqgan,
        trained_model,
        FilmSettings(variants=3),
        seed=5,
        progress=lambda what, done, total: moves.append((what, done, total)),
    )
    assert {split: found.shape for split, found in codes.items()} == {"train": (8, 3, 16), "val": (4, 1, 16)}
    assert [move for move in moves if move[1] == move[2]][1::2] == [("encode train", 24, 24), ("encode val", 4, 4)]
    tokenizer = ImageTokenizer(vqgan, trained_model)
    preset = resolve_preset("model", trained_model.image, trained_model.vqgan.image_channels)
    for split, found in codes.items():
        encoded = encode_rows(rows[split], tokenizer, preset, InputSettings(), progress=silent)
        assert encoded.codes_NP.dtype == found.dtype == np.uint16
        assert np.array_equal(found[:, 0], encoded.codes_NP), split
    assert (codes["train"][:, 1:] != codes["train"][:, :1]).any(axis=(0, 2)).all(), "a variant changes no code"


def test_variants_stand_beside_their_film_and_hang_on_the_seed(manifest, trained_model, vqgan):
    films = load_films(read_splits(manifest)["train"], trained_model, silent)
    tokenizer = training_tokenizer(vqgan, trained_model)

    def encode(seed):
        return encode_films(tokenizer, films, FilmSettings(), variants=2, seed=seed, progress=silent)

    alone = tokenizer.encode(np.stack([films.exact(index) for index in range(len(films))]))
    assert np.array_equal(encode(1)[:, 0], alone)
    assert np.array_equal(encode(1), encode(1))
    assert (encode(1)[:, 1] != encode(2)[:, 1]).any()


def test_memory_that_runs_out_is_an_error_of_the_machine(manifest, trained_model, vqgan, monkeypatch):
    def encode(pixels_BCYX):
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(vqgan, "encode", encode)
    with pytest.raises(MachineError, match="encoding images: not enough memory") as caught:
        encode_splits(read_splits(manifest), vqgan, trained_model, FilmSettings(), seed=0, progress=silent)
    assert caught.value.hint is None, "a training has no setting that lowers it"
