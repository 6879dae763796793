"""Codes of a manifest's splits: those that inference makes, by the same guarded tokenizer; made once, by all ranks."""

from __future__ import annotations

import dataclasses
import json
import pickle

import numpy as np
import pytest
import torch

from chexmix_cli.core.data.presets import resolve_preset
from chexmix_cli.core.errors import DataError, MachineError
from chexmix_cli.core.infer.image_tokenizer import ImageTokenizer
from chexmix_cli.core.infer.manifest_images import encode_rows
from chexmix_cli.core.models.vqgan import Vqgan
from chexmix_cli.core.settings.finetuning import FilmSettings
from chexmix_cli.core.settings.inference import InputSettings
from chexmix_cli.core.train.examples import code_cache
from chexmix_cli.core.train.examples.code_cache import Encoding, encode_splits
from chexmix_cli.core.train.examples.run_folder import RunFolder
from chexmix_cli.core.train.examples.splits import read_splits


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


@pytest.fixture
def encoding(trained_model, tmp_path):
    return Encoding(
        model=trained_model,
        codebook_hash="a" * 64,
        changes=FilmSettings(variants=3),
        seed=5,
        device=torch.device("cpu"),
        workers=0,
        folder=tmp_path / "codes",
    )


def silent(*_):
    pass


def whole(codes):
    """Return all codes of all variants, (N, V, P)."""
    return np.stack([codes[:, variant] for variant in range(codes.shape[1])], axis=1)


def test_train_rows_have_variants_and_the_first_is_what_inference_encodes(manifest, trained_model, vqgan, encoding):
    rows, moves = read_splits(manifest), []
    codes = encode_splits(rows, vqgan, encoding, lambda what, done, total: moves.append((what, done, total)))
    assert {split: found.shape for split, found in codes.items()} == {"train": (8, 3, 16), "val": (4, 1, 16)}
    assert [move for move in moves if move[1] == move[2]] == [("encode train", 8, 8), ("encode val", 4, 4)]
    tokenizer = ImageTokenizer(vqgan, trained_model)
    preset = resolve_preset("model", trained_model.image, trained_model.vqgan.image_channels)
    for split, found in codes.items():
        encoded = encode_rows(rows[split], tokenizer, preset, InputSettings(), progress=silent)
        assert encoded.codes_NP.dtype == whole(found).dtype == np.uint16
        assert np.array_equal(found[:, 0], encoded.codes_NP), split
    train = whole(codes["train"])
    assert (train[:, 1:] != train[:, :1]).any(axis=(0, 2)).all(), "a variant changes no code"
    # As an array would be asked.
    there = pickle.loads(pickle.dumps(codes["train"]))
    assert np.array_equal(there[[6, 1, 1], [0, 2, 1]], train[[6, 1, 1], [0, 2, 1]])
    assert np.array_equal(there[2:5, 0], train[2:5, 0])
    assert there[3, 2].tolist() == train[3, 2].tolist()


def test_changes_hang_on_the_seed_and_what_is_there_is_not_made_again(manifest, vqgan, encoding, monkeypatch, tmp_path):
    rows = read_splits(manifest)
    first = whole(encode_splits(rows, vqgan, encoding, silent)["train"])
    other = dataclasses.replace(encoding, seed=6, folder=tmp_path / "others")
    other_train = whole(encode_splits(rows, vqgan, other, silent)["train"])
    assert np.array_equal(first[:, 0], other_train[:, 0])
    assert (first[:, 1:] != other_train[:, 1:]).any()
    monkeypatch.setattr(vqgan, "encode", None)
    assert np.array_equal(whole(encode_splits(rows, vqgan, encoding, silent)["train"]), first)
    foreign = dataclasses.replace(encoding, codebook_hash="b" * 64)
    with pytest.raises(DataError, match="codebook_hash aaaa.*expected codebook_hash bbbb"):
        encode_splits(rows, vqgan, foreign, silent)


def files_of(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("shard*") if path.is_file()}


def test_an_encoding_that_was_interrupted_goes_on_and_ends_the_same(manifest, vqgan, encoding, monkeypatch, tmp_path):
    monkeypatch.setattr(code_cache, "_ROWS", 3)
    rows = read_splits(manifest)
    encode_splits(rows, vqgan, encoding, silent)
    again, encode, calls = dataclasses.replace(encoding, folder=tmp_path / "again"), vqgan.encode, []

    def interrupted(pixels_BCYX):
        calls.append(len(pixels_BCYX))
        if len(calls) == 5:
            raise InterruptedError
        return encode(pixels_BCYX)

    monkeypatch.setattr(vqgan, "encode", interrupted)
    with pytest.raises(InterruptedError):
        encode_splits(rows, vqgan, again, silent)
    encode_splits(rows, vqgan, again, silent)
    assert files_of(again.folder) == files_of(encoding.folder)
    assert sum(calls) < 2 * (8 * 3 + 4), "a shard that was there was made again"


def test_ranks_make_a_part_each_and_the_whole_is_as_one_makes_it(manifest, vqgan, encoding, monkeypatch, tmp_path):
    rows = read_splits(manifest)
    encode_splits(rows, vqgan, encoding, silent)
    shared = dataclasses.replace(encoding, folder=tmp_path / "shared")
    tokenizer = code_cache.training_tokenizer(vqgan, encoding.model)
    monkeypatch.setattr(code_cache, "world_size", lambda: 2)
    for split, found in rows.items():
        folders = [shared.folder / f"{split}-{variant}" for variant in range(shared.variants_of(split))]
        for number in (1, 0):  # rank 0 joins what is there
            monkeypatch.setattr(code_cache, "rank", lambda number=number: number)
            monkeypatch.setattr(code_cache, "is_main", lambda number=number: number == 0)
            code_cache._encode_split(split, found, tokenizer, shared, folders, silent)
    assert files_of(shared.folder) == files_of(encoding.folder)
    assert not list(shared.folder.glob("*-parts"))


def test_memory_that_runs_out_is_an_error_of_the_machine(manifest, vqgan, encoding, monkeypatch):
    def encode(pixels_BCYX):
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(vqgan, "encode", encode)
    with pytest.raises(MachineError, match="encoding images: not enough memory") as caught:
        encode_splits(read_splits(manifest), vqgan, encoding, silent)
    assert caught.value.hint is None, "a training has no setting that lowers it"


def test_a_run_keeps_what_was_made_of_its_data_and_nothing_else(tmp_path):
    with RunFolder(tmp_path / "run") as run:
        assert not run.path.exists()
        first = run.open_cache({"data": 1})
        (first / "train-0").mkdir(parents=True)
        assert run.open_cache({"data": 1}) == first
        assert (first / "train-0").exists()
        assert run.open_cache({"data": 2}) != first
        assert not first.exists()
        with RunFolder(run.path) as second, pytest.raises(MachineError, match="another process is writing it"):
            second.hold()
        run.remove_cache()
        assert [path.name for path in run.path.iterdir()] == [".lock"]
    with RunFolder(run.path) as again:
        again.hold()
