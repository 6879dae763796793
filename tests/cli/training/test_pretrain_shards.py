"""``chexmix pretrain`` of the decoder stages from token shards and in packed rows; what is refused before training."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

RUN = (
    "pretrain",
    "--preset",
    "debug",
    "--set",
    "documents.variants=1",
    "--set",
    "train.steps=3",
    "--set",
    "train.checkpoint_every=3",
)


@pytest.fixture
def manifest(films: Path) -> Path:
    lines = [
        {
            "id": f"film-{name}-{split}",
            "file": f"{name}.png",
            "split": split,
            "findings": f"The lungs of {name} are clear, {split}.",
        }
        for split in ("train", "val")
        for name in ("a", "b", "c")
    ]
    path = films / "manifest.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture
def shards(call, manifest, debug_weights, tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(manifest.parent)
    folder = tmp_path / "shards"
    result = call("tokenize", "-", "--weights", debug_weights, "-o", folder, stdin=manifest.read_text())
    assert result.code == 0, result.stderr
    return folder


def losses(run: Path) -> list[dict]:
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in record.items() if "loss" in key} for record in records]


@pytest.mark.parametrize(
    "more",
    [
        ("--stage", "1"),
        ("--stage", "2", "--set", "packing.row_tokens=120"),
        ("--stage", "2", "--set", "packing.row_tokens=40", "--set", "packing.attention=paper"),
    ],
    ids=["stage 1", "stage 2 packed", "stage 2 across"],
)
def test_shards_and_manifest_train_alike(call, manifest, shards, debug_weights, tmp_path, more):
    for name, data in (("manifest", manifest), ("shards", shards)):
        result = call(*RUN, *more, "--init", debug_weights, "--manifest", data, "--out", tmp_path / name)
        assert result.code == 0, result.stderr
    assert losses(tmp_path / "manifest") == losses(tmp_path / "shards")
    assert len(losses(tmp_path / "shards")) >= 4
    records = [json.loads(line) for line in (tmp_path / "shards/metrics.jsonl").read_text().splitlines()]
    fills = [record["row_fill"] for record in records if "row_fill" in record]
    assert bool(fills) == ("2" in more)
    assert all(0.3 < fill <= 1 for fill in fills)


def test_shards_of_other_tokens_stop_before_training(call, shards, debug_weights, tmp_path):
    from chexmix_cli.core.data.shards import ShardSet
    from chexmix_cli.core.weights import open_weights

    def refused(*more: object) -> str:
        result = call(*RUN, "--stage", "1", "--manifest", shards, "--out", tmp_path / "run", *more)
        assert result.code == 1
        assert not (tmp_path / "run").exists()
        return str(result.stderr)

    own = ShardSet.open(shards).identity
    variants = refused("--init", debug_weights, "--set", "documents.variants=2")
    assert "token shards hold one encoding of each image" in variants
    other = tmp_path / "other"
    other.mkdir()
    for name in ("vqgan.safetensors", "model.safetensors", "vqgan.yaml", "config.json", "tokenizer.json"):
        (other / name).write_bytes((debug_weights / name).read_bytes())
    text = (other / "tokenizer.json").read_text()
    # The same in other bytes is the same.
    (other / "tokenizer.json").write_text(json.dumps(json.loads(text)))
    assert open_weights(other).text_tokenizer_hash == own.text_tokenizer_hash
    (other / "tokenizer.json").write_text(text.replace('"add_prefix_space": false', '"add_prefix_space": true'))
    tokenizer = refused("--init", debug_weights, "--set", f"documents.text_tokenizer={other}")
    assert f"text_tokenizer_hash {own.text_tokenizer_hash}" in tokenizer
    vocabulary = refused(
        "--init", debug_weights, "--set", "model.vocabulary.mask=1089", "--set", "model.vocabulary.pad=1088"
    )
    assert "vocabulary differs in mask, pad" in vocabulary


def test_shards_of_another_codebook_are_refused(call, shards, debug_weights, tmp_path):
    import torch
    from safetensors import safe_open
    from safetensors.torch import save_file

    other = tmp_path / "other"
    other.mkdir()
    for path in debug_weights.iterdir():
        (other / path.name).write_bytes(path.read_bytes())
    with safe_open(other / "vqgan.safetensors", framework="pt") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 (no mapping)
    tensors["quantize.embedding.weight"] += torch.ones(())
    save_file(tensors, other / "vqgan.safetensors", metadata=metadata)
    result = call(*RUN, "--stage", "1", "--manifest", shards, "--out", tmp_path / "run", "--init", other)
    assert result.code == 1
    assert "shards of codebook_hash" in result.stderr
    assert not (tmp_path / "run").exists()


def test_settings_that_cannot_be_stop_before_training(call, shards, debug_weights, tmp_path):
    def refused(*more: object) -> tuple[int, str]:
        result = call(*RUN, "--stage", "2", "--manifest", shards, "--out", tmp_path / "run", *more)
        assert not (tmp_path / "run").exists()
        return result.code, str(result.stderr)

    ratio = refused("--init", debug_weights, "--set", "masking.image_ratio=[0.2,1.4]")
    assert ratio[0] == 2
    assert "masking.image_ratio: is [0.2, 1.4]; expected two numbers, 0 <= low <= high <= 1" in ratio[1]
    row = refused("--init", debug_weights, "--set", "packing.row_tokens=20")
    assert row[0] == 1
    assert "packing.row_tokens: a document has" in row[1]
    row = refused("--init", debug_weights, "--set", "packing.row_tokens=900", "--set", "packing.attention=paper")
    assert row[0] == 2
    assert "packing.row_tokens: is 900; expected at most the decoder's 512 positions" in row[1]


def test_a_language_model_is_no_image_tokenizer_but_a_start(call, shards, debug_weights, tmp_path):
    language = tmp_path / "phi"
    language.mkdir()
    config = json.loads((debug_weights / "config.json").read_text())
    (language / "config.json").write_text(json.dumps({**config, "vocab_size": 1100}))
    (language / "model.safetensors").write_bytes(_without_header(debug_weights / "model.safetensors"))
    arguments = (*RUN, "--stage", "1", "--manifest", shards, "--out", tmp_path / "run")
    result = call(*arguments, "--init", language)
    assert result.code == 1
    assert "holds a language model and no image tokenizer" in result.stderr
    assert f"--set start.decoder={language}" in result.stderr
    (language / "config.json").write_text(json.dumps(config))
    result = call(*arguments, "--init", debug_weights, "--set", f"start.decoder={language}")
    assert result.code == 0, result.stderr
    (language / "config.json").write_text(json.dumps({**config, "intermediate_size": 65}))
    result = call(*arguments[:-1], tmp_path / "again", "--init", debug_weights, "--set", f"start.decoder={language}")
    assert (result.code, "its decoder differs in mlp_size" in result.stderr) == (1, True)


def _without_header(path: Path) -> bytes:
    from safetensors.torch import load_file, save

    return save(load_file(path))


def test_the_image_tokenizer_learns_from_no_shards(call, shards, tmp_path):
    arguments = ("--stage", "tokenizer", "--preset", "debug", "--manifest", shards, "--out", tmp_path / "run")
    result = call("pretrain", *arguments)
    assert result.code == 1
    assert "is a folder; expected a manifest: the image tokenizer learns from images" in result.stderr
