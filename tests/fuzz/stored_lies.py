"""Lies about weights, what lies beside them, and what runs leave: headers, numbers, vocabularies, files of others."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import pickle
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import stored_parsers
import text_parsers
import torch
import weight_parsers
from lies import Lie, header, metadata, on, tensor
from parser import Parser

from chexmix_cli.core.data.shards import ShardSet
from chexmix_cli.core.infer.classification.heads import Head
from chexmix_cli.core.infer.retrieval.vector_index import VectorIndex
from chexmix_cli.core.infer.typicality import Typical
from chexmix_cli.core.infer.verification import verify_all
from chexmix_cli.core.weights import open_weights
from chexmix_cli.core.weights.convert import convert
from chexmix_cli.core.weights.hub.lock import LOCK_FILE, read_lock

_DEEP = "[" * 100_000
_OF = {parser.name: parser for parser in (*weight_parsers.PARSERS, *stored_parsers.PARSERS, *text_parsers.PARSERS)}
_MODEL, _INDEX, _SHARDS = _OF["weights: safetensors"], _OF["retrieval indexes"], _OF["token shards"]


def _reading(parser: Parser, read: Callable[[Path], object]) -> Parser:
    return dataclasses.replace(parser, read=read)


def _oversized(path: Path) -> None:
    path.write_bytes((1 << 30).to_bytes(8, "little") + b"{" + path.read_bytes()[9:])


def _many_tensors(path: Path) -> None:
    one = '"%d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}'
    text = ("{" + ",".join(one % number for number in range(350_000)) + "}").encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text)


def _overlap(values: dict[str, Any]) -> None:
    # Of equal size: nothing else is wrong.
    infos = [info for name, info in sorted(values.items()) if name != "__metadata__" and info["dtype"] == "F32"]
    one, other = next((a, b) for a in infos for b in infos if a is not b and a["shape"] == b["shape"])
    other["data_offsets"] = list(one["data_offsets"])


def _beyond(values: dict[str, Any]) -> None:
    last = max((info for name, info in values.items() if name != "__metadata__"), key=lambda one: one["data_offsets"])
    last["shape"][0] *= 1 << 30
    last["data_offsets"][1] = last["data_offsets"][0] + (last["data_offsets"][1] - last["data_offsets"][0]) * (1 << 30)


def _at_the_start(values: dict[str, Any]) -> None:
    start, stop = values["labels"]["data_offsets"]
    values["labels"]["data_offsets"] = [0, stop - start]


def _cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def _linked(name: str) -> Callable[[Path], None]:
    def link(path: Path) -> None:
        outside = path.parents[2] / "secret"
        outside.write_bytes((path.parent / name).read_bytes() if (path.parent / name).exists() else b"secret")
        (path.parent / name).unlink(missing_ok=True)
        (path.parent / name).symlink_to(outside)

    return link


def _larger_vocabulary(values: dict[str, Any]) -> None:
    values["model"]["vocabulary"]["num_text"] -= 24


class _Runs:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch /tmp/chexmix-was-here",)


def _pickled(name: str) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        (path.parent / "model.safetensors").unlink(missing_ok=True)
        torch.save({"state_dict": {"a": _Runs()}}, path.parent / name)

    return write


def _swap(one: str, other: str) -> Callable[[Path], None]:
    return lambda path: shutil.copy(path.parent / other, path.parent / one) and None


def _tokens(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def rewrite(path: Path) -> None:
        values = json.loads(path.read_text())
        change(values)
        path.write_text(json.dumps(values))

    return rewrite


def _decoder(path: Path) -> None:
    open_weights(path.parent).load_decoder("cpu", torch.float32)


def _head_in_use(path: Path) -> None:
    weights = open_weights(None)
    head = Head.load(path)
    head.require_model(weights.fingerprint, path.name)
    head.require_size(weights.settings.decoder, path.name)


def _typical_in_use(path: Path) -> None:
    weights = open_weights(None)
    typical = Typical.load(path)
    typical.require_model(weights.fingerprint, path.name)
    typical.require_size(weights.settings.decoder, path.name)


def _shards_in_use(path: Path) -> None:
    ShardSet.open(path.parent).require(codebook_hash="the model's")


def _index_in_use(path: Path) -> None:
    VectorIndex.open(path.parent).identity.require("index", model_hash="the model's")


def _check(path: Path) -> None:
    failed = [check for check in verify_all(path.parent) if check.status == "failed"]
    if failed:
        from chexmix_cli.core.errors import WeightsError

        raise WeightsError(failed[0].detail)


def _locked(path: Path) -> None:
    digest = {"sha256": "0" * 64, "num_bytes": path.stat().st_size}
    lock = {"schema": 1, "repository": "a/b", "commit": "c", "licence": "l", "files": {path.name: digest}}
    (path.parent / LOCK_FILE).write_text(json.dumps(lock))


def _deep_metadata(key: str) -> Callable[[Path], None]:
    return header(lambda values: values["__metadata__"].update({key: _DEEP}))


def _tar(path: Path) -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        archive.add(path, "../../model.safetensors")
    path.write_bytes(stream.getvalue())


def _model(lie: str, said: str, change: Callable[[Path], object], **more: Any) -> Lie:
    return Lie(file="model.safetensors", lie=lie, said=said, tell=on(_MODEL, "model", change), **more)


_HEADS, _TYPICAL = _OF["heads"], _OF["typical films"]
_DRAFTS, _PROJECTIONS = _OF["draft indexes"], _OF["projections"]
_TOKENIZERS, _PICKLES = _OF["tokenizer files"], _OF["weights: VQGAN checkpoints"]
_CHECKPOINTS, _TOML = _OF["training checkpoints"], _OF["TOML settings"]

LIES: tuple[Lie, ...] = (
    _model("a header of 1 GiB", "has a header of 1073741824 bytes", _oversized),
    _model("a header of 20 MB, 350,000 empty tensors", "expected at most 16777216", _many_tensors),
    _model("two tensors in one place", "overlap those of another tensor", header(_overlap)),
    _model("a tensor far behind the end of the file", "is cut short", header(_beyond)),
    _model("cut in half, as a download that broke", "is cut short", _cut),
    _model("NaN", "holds numbers that are not finite", tensor("model.final_layernorm.weight", float("nan"))),
    _model(
        "an infinite number", "holds numbers that are not finite", tensor("model.final_layernorm.weight", float("inf"))
    ),
    _model(
        "the image tokenizer's file under its name",
        "keys do not fit the model",
        _swap("model.safetensors", "vqgan.safetensors"),
    ),
    _model("a description of another vocabulary", "vocabulary", metadata("chexmix", _larger_vocabulary)),
    _model("a description nested 100,000 deep", "nested too deeply", _deep_metadata("chexmix")),
    _model("a link out of the folder", "model.safetensors is a link out of the folder", _linked("model.safetensors")),
    _model("a tar archive", "is not a safetensors file", _tar),
    Lie(
        file="LICENSE",
        lie="a link to a file of the user's, to be copied by `convert`",
        said="LICENSE is a link out of the folder",
        tell=on(_reading(_MODEL, lambda path: convert(path.parent, path.parent / "out")), "model", _linked("LICENSE")),
    ),
    Lie(
        file="any fetched file",
        lie="another sha256 than was recorded",
        said="has sha256",
        tell=on(_reading(_MODEL, _check), "model", _locked),
    ),
    Lie(
        file="chexmix.lock.json",
        lie="nested 100,000 deep",
        said="is damaged",
        tell=on(
            _reading(_MODEL, lambda path: read_lock(path.parent)),
            "model",
            lambda path: (path.parent / LOCK_FILE).write_text(_DEEP),
        ),
    ),
    Lie(
        file="pytorch_model.bin",
        lie="a pickle",
        said="it is pickled, and reading it could run code",
        tell=on(_reading(_MODEL, _decoder), "model", _pickled("pytorch_model.bin")),
    ),
    Lie(
        file="vqgan.ckpt",
        lie="a pickle that runs a command",
        said="which unpickling would run as code",
        tell=on(_PICKLES, "vqgan", _pickled("vqgan.ckpt")),
    ),
    Lie(
        file="vqgan.ckpt",
        lie="a plain pickle",
        said="holds posix.system, which unpickling would run as code",
        tell=on(_PICKLES, "vqgan", lambda path: path.write_bytes(pickle.dumps(_Runs(), 2))),
    ),
    Lie(
        file="vqgan.safetensors",
        lie="NaN",
        said="holds numbers that are not finite",
        tell=on(_MODEL, "vqgan", tensor("quantize.embedding.weight", float("nan"))),
    ),
    Lie(
        file="tokenizer.json",
        lie="an id of 10^9",
        said="an id of 1000000000",
        tell=on(_TOKENIZERS, "tokenizer", _tokens(lambda values: values["model"]["vocab"].update({"zz": 10**9}))),
    ),
    Lie(
        file="tokenizer.json",
        lie="an id beyond the model's vocabulary",
        said="expected ids below num_text",
        tell=on(_TOKENIZERS, "tokenizer", _tokens(lambda values: values["model"]["vocab"].update({"zz": 5000}))),
    ),
    Lie(
        file="tokenizer.json",
        lie="nested 100,000 deep",
        said="not a tokenizer file",
        tell=on(_TOKENIZERS, "tokenizer", lambda path: path.write_text(_DEEP)),
    ),
    Lie(
        file="head.safetensors",
        lie="of other weights",
        said="was made for other weights",
        tell=on(
            _reading(_HEADS, _head_in_use),
            "head",
            metadata("chexmix-head", lambda values: values.update(model="0" * 64)),
        ),
    ),
    Lie(
        file="head.safetensors",
        lie="of these weights, and a layer they do not have",
        said="numbers of layer 99",
        tell=on(
            _reading(_HEADS, _head_in_use), "head", metadata("chexmix-head", lambda values: values.update(layer=99))
        ),
    ),
    Lie(
        file="head.safetensors",
        lie="NaN",
        said="is not a head",
        tell=on(_HEADS, "head", tensor("weight", float("nan"))),
    ),
    Lie(
        file="typical.safetensors",
        lie="of other weights",
        said="was made for other weights",
        tell=on(
            _reading(_TYPICAL, _typical_in_use),
            "typical",
            metadata("chexmix-typical", lambda values: values.update(model="0" * 64)),
        ),
    ),
    Lie(
        file="typical.safetensors",
        lie="nested 100,000 deep",
        said="does not say what is typical",
        tell=on(_TYPICAL, "typical", _deep_metadata("chexmix-typical")),
    ),
    Lie(
        file="retrieval.safetensors",
        lie="of other weights",
        said="was made for other weights",
        tell=on(_PROJECTIONS, "retrieval", metadata("chexmix-retrieval", lambda values: values.update(model="0" * 64))),
    ),
    Lie(
        file="retrieval.safetensors",
        lie="NaN",
        said="holds numbers that are not finite",
        tell=on(_PROJECTIONS, "retrieval", tensor("image.projection.weight", float("nan"))),
    ),
    Lie(
        file="drafts.safetensors",
        lie="an id beyond the vocabulary",
        said="expected 0 to 287",
        tell=on(_DRAFTS, "drafts", tensor("next", 5000)),
    ),
    Lie(
        file="drafts.safetensors",
        lie="of another text tokenizer",
        said="was made with another text tokenizer",
        tell=on(_DRAFTS, "drafts", metadata("chexmix-drafts", lambda values: values.update(tokenizer="zz"))),
    ),
    Lie(
        file="retrieval index",
        lie="of other weights",
        said="an index of model_hash aa",
        tell=on(_reading(_INDEX, _index_in_use), "index", lambda path: None),
    ),
    Lie(
        file="retrieval index",
        lie="a part of another index",
        said="is of another index",
        tell=on(_INDEX, "images", metadata("chexmix-index", lambda values: values["identity"].update(model_hash="zz"))),
    ),
    Lie(
        file="retrieval index",
        lie="NaN",
        said="holds vectors that are not of length 1",
        tell=on(_INDEX, "images", tensor("vectors", float("nan"))),
    ),
    Lie(
        file="retrieval index",
        lie="a number with another exponent",
        said="holds vectors that are not of length 1",
        tell=on(_INDEX, "images", tensor("vectors", 2.0)),
    ),
    Lie(
        file="retrieval index",
        lie="a code that the model does not have",
        said="holds codes that are not the model's",
        tell=on(_INDEX, "images", tensor("codes", 9999)),
    ),
    Lie(
        file="retrieval index",
        lie="a text id below 0",
        said="holds text ids that are not the model's",
        tell=on(_INDEX, "reports", tensor("text_ids", -5)),
    ),
    Lie(
        file="token shards",
        lie="two tensors in one place",
        said="tensors overlap or leave gaps",
        tell=on(_SHARDS, "shard-00000.safetensors", header(_at_the_start)),
    ),
    Lie(
        file="token shards",
        lie="a header nested 100,000 deep",
        said="the header is damaged",
        tell=on(_SHARDS, "shard-00000.safetensors", _deep_metadata("chexmix_shard")),
    ),
    Lie(
        file="token shards",
        lie="a code that was changed",
        said="the tensors are damaged",
        tell=on(_SHARDS, "shard-00000.safetensors", tensor("codes", 299)),
    ),
    Lie(
        file="token shards",
        lie="of another image tokenizer",
        said="expected codebook_hash",
        tell=on(_reading(_SHARDS, _shards_in_use), "shards", lambda path: None),
    ),
    Lie(
        file="checkpoint",
        lie="a tensor file cut in half",
        said="is not what was written",
        tell=on(_CHECKPOINTS, "shard", _cut),
    ),
    Lie(
        file="checkpoint",
        lie="a pickle in place of a tensor file",
        said="is not what was written",
        tell=on(_CHECKPOINTS, "shard", lambda path: path.write_bytes(pickle.dumps(_Runs(), 2))),
    ),
    Lie(
        file="settings, TOML",
        lie="nested 100,000 deep",
        said="nested",
        code=2,
        tell=on(_TOML, "config", lambda path: path.write_text("a = " + _DEEP)),
    ),
    Lie(
        file="settings, TOML",
        lie="a setting that is none",
        said="max_file_gb",
        code=2,
        tell=on(_TOML, "config", lambda path: path.write_text("[input]\nmax_file_gb = 1\n")),
    ),
    Lie(
        file="settings, TOML",
        lie="a number of 5,000 digits",
        said="config.toml",
        code=2,
        tell=on(_TOML, "config", lambda path: path.write_text("[input]\nframe = " + "9" * 5000)),
    ),
)
