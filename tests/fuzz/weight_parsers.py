"""Weights and what is stored beside them: safetensors, GGUF, checkpoints, tokenizers, heads, projections, drafts."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from damage import BYTES, JSON, SAFETENSORS, ZIP
from parser import Parser, each_file

from chexmix_cli.core.errors import WeightsError
from chexmix_cli.core.infer.classification.heads import Head
from chexmix_cli.core.infer.retrieval.projection import Projection
from chexmix_cli.core.infer.typicality import Typical
from chexmix_cli.core.infer.verification import verify_all
from chexmix_cli.core.models.decoder import Decoder
from chexmix_cli.core.models.vqgan import Vqgan
from chexmix_cli.core.settings.classification import OperatingPoint
from chexmix_cli.core.settings.load import build
from chexmix_cli.core.settings.model import DecoderSettings, ModelSettings
from chexmix_cli.core.text.tokenizer import TextTokenizer
from chexmix_cli.core.train.checkpoint import Position, TrainState, load_newest, save_checkpoint
from chexmix_cli.core.vocab import compact
from chexmix_cli.core.weights import open_weights, save_model
from chexmix_cli.core.weights.draft_index import DraftIndex
from chexmix_cli.core.weights.export import export_gguf, export_hf
from chexmix_cli.core.weights.formats.gguf_file import GgufSource
from chexmix_cli.core.weights.formats.sharded import open_safetensors
from chexmix_cli.core.weights.formats.vqgan_checkpoint import VqganCheckpoint

ASSETS = Path(build.__code__.co_filename).parents[2] / "assets" / "chexmix-mini"
_NUM_TEXT = 288
_VOCABULARY = compact(num_text=_NUM_TEXT, num_codes=40, tokens_per_image=16)
_SETTINGS = {
    "name": "tiny",
    "vocabulary": _VOCABULARY,
    "image": {"resolution_px": 16, "intensity": "voi", "geometry": "pad"},
    "vqgan": {
        "num_codes": 40, "code_size": 6, "latent_channels": 10, "channels": 8, "channel_multipliers": [1, 2, 3],
        "num_res_blocks": 1, "image_channels": 1, "num_groups": 4,
    },
    "decoder": {
        "num_rows": _VOCABULARY.num_rows, "hidden_size": 24, "num_layers": 2, "num_heads": 2, "mlp_size": 40,
        "rotary_size": 4, "max_positions": 64,
    },
}  # fmt: skip


@cache
def _settings() -> ModelSettings:
    return build(ModelSettings, _SETTINGS)


def _random(module: torch.nn.Module) -> Any:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(std=0.2, generator=generator)
    return module.eval()


def _model(folder: Path) -> Path:
    settings = _settings()
    decoder, vqgan = _random(Decoder(settings.decoder)), _random(Vqgan(settings.vqgan))
    tokenizer = folder.parent / "tokenizer.json"
    folder.parent.mkdir(parents=True, exist_ok=True)
    tokenizer.write_text(json.dumps(_tokenizer()))
    save_model(folder, settings, decoder=decoder, vqgan=vqgan, tokenizer_file=tokenizer)
    tokenizer.unlink()
    return folder


def _tokenizer() -> dict[str, Any]:
    """Return the embedded model's tokenizer with its first tokens alone: an input takes a third of the time."""
    values: dict[str, Any] = json.loads((ASSETS / "tokenizer.json").read_text())
    added = values["added_tokens"]
    for number, token in enumerate(added, _NUM_TEXT - len(added)):
        token["id"] = number
    ranks = values["model"]["vocab"]
    kept = {token: number for token, number in ranks.items() if number < _NUM_TEXT - len(added)}
    pairs = [merge if isinstance(merge, list) else merge.split(" ") for merge in values["model"]["merges"]]
    values["model"] |= {
        "vocab": kept | {token["content"]: token["id"] for token in added},
        "merges": [pair for pair in pairs if "".join(pair) in kept and kept.keys() >= {*pair}],
    }
    return values


def _model_seeds(folder: Path) -> list[Path]:
    return each_file(folder, _model(folder / "made"), ("*.safetensors",))


def _load_all(path: Path) -> None:
    weights = open_weights(path.parent)
    modules = (weights.load_decoder("cpu", torch.float32), weights.load_vqgan("cpu", torch.float32))
    _require_finite(modules, path.parent)


def _require_finite(modules: Iterable[torch.nn.Module], folder: Path) -> None:
    """Raise unless all is finite, or ``chexmix weights check``, whose work it is to look at every value, says so."""
    if not all(torch.isfinite(value).all() for module in modules for value in module.state_dict().values()):
        assert any(check.status == "failed" for check in verify_all(folder)), "weights check passes what is no number"


def _released_seeds(folder: Path) -> list[Path]:
    export_hf(_model(folder / "model"), folder / "made", max_bytes=20_000)
    return each_file(folder, folder / "made", ("*.json", "*.yaml"))


def _load_released(path: Path) -> None:
    weights = open_weights(path.parent)
    weights.load_decoder("cpu", torch.float32)
    weights.load_text_tokenizer()


def _index_seeds(folder: Path) -> list[Path]:
    export_hf(_model(folder / "model"), folder / "made", max_bytes=20_000)
    return each_file(folder, folder / "made", ("*.index.json", "*-00001-*.safetensors"))


def _load_index(path: Path) -> None:
    source = open_safetensors(next(path.parent.glob("*.index.json")))
    for key in source.shapes:
        source.get(key)


def _gguf_seeds(folder: Path) -> list[Path]:
    export_gguf(_model(folder / "model"), folder / "made")
    return each_file(folder, folder / "made", ("*.gguf",))


def _load_gguf(path: Path) -> None:
    source = GgufSource(path)
    for key in source.shapes:
        assert tuple(source.get(key).shape) == source.shapes[key], key


def _pickle_seeds(folder: Path) -> list[Path]:
    (folder / "made").mkdir(parents=True)
    # torch's unpickler takes its time for each tensor: as few as a network can have.
    settings = replace(_settings().vqgan, channels=4, channel_multipliers=(1, 2), num_groups=2)
    state = _random(Vqgan(settings)).state_dict()
    torch.save({"state_dict": state, "epoch": 3}, folder / "made" / "vqgan.ckpt")
    torch.save(state, folder / "made" / "old.ckpt", _use_new_zipfile_serialization=False)
    return each_file(folder, folder / "made")


def _load_pickle(path: Path) -> None:
    source = VqganCheckpoint(path)
    for key in source.shapes:
        source.get(key).sum()


def _state() -> TrainState:
    module = torch.nn.Linear(5, 3)
    optimizer = torch.optim.AdamW(module.parameters())
    module(torch.ones(1, 5)).sum().backward()
    optimizer.step()
    return TrainState(module, optimizer, None)


def _checkpoint_seeds(folder: Path) -> list[Path]:
    (folder / "made").mkdir(parents=True)
    position = Position(step=3, best=0.5, best_step=3, stale=1, order="ab", window={"loss": [1.0, 2]})
    save_checkpoint(folder / "made", _state(), position, {"train": {"steps": 9}}, {"version": "x"}, keep=2)
    return each_file(folder, folder / "made")


def _load_checkpoint(path: Path) -> None:
    position, _ = load_newest(path.parent.parent, _state(), {"train": {"steps": 9}})
    assert type(position.step) is int, position
    assert position.step >= 0, position


def _tokenizer_seeds(folder: Path) -> list[Path]:
    made = folder / "made"
    made.mkdir(parents=True)
    values = _tokenizer()
    (made / "tokenizer.json").write_text(json.dumps(values))
    first = each_file(folder, made)
    # The released form of the same: three files.
    apart = folder / "apart"
    apart.mkdir()
    (apart / "vocab.json").write_text(json.dumps(values["model"]["vocab"]))
    merges = [one if isinstance(one, str) else " ".join(one) for one in values["model"]["merges"]]
    (apart / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    (apart / "added_tokens.json").write_text(json.dumps({one["content"]: one["id"] for one in values["added_tokens"]}))
    return first + each_file(folder / "released", apart)


def _load_tokenizer(path: Path) -> None:
    tokenizer = TextTokenizer.load(path.parent, _VOCABULARY)
    if tokenizer is None:
        raise WeightsError("none")
    ids = tokenizer.encode("No pneumothorax. Ä \u2028 1")
    assert all(0 <= number < _NUM_TEXT for number in ids), ids
    tokenizer.decode(ids)


def _asset_seeds(name: str) -> Any:
    def make(folder: Path) -> list[Path]:
        (folder / "made").mkdir(parents=True)
        shutil.copy(ASSETS / name, folder / "made")
        return each_file(folder, folder / "made")

    return make


def _load_head(path: Path) -> None:
    head = Head.load(path)
    with np.errstate(all="raise", under="ignore"):
        found = head.probabilities(np.zeros((2, len(head.mean_D))))
    assert ((found >= 0) & (found <= 1)).all()
    assert isinstance(head.origin, str)
    head.notes({"view": "PA", "age_group": "adult", "source": "x"})
    thresholds = head.thresholds_at(OperatingPoint("sensitivity", 0.8))
    assert ((thresholds >= 0) & (thresholds <= 1) | np.isnan(thresholds)).all()
    head.require_model(head.model, "x")
    with suppress(WeightsError):
        head.require_model("another", "x")
    assert type(head.layer) is int, head.layer
    assert head.layer >= 0, head.layer


def _load_typical(path: Path) -> None:
    typical = Typical.load(path)
    scores = typical.scores(np.zeros((1, len(typical.mean_D))))
    assert np.isfinite(scores).all()
    json.dumps([one.to_dict() for one in typical.judge(np.zeros((1, len(typical.mean_D))))], allow_nan=False)
    typical.require_model(typical.model, "x")
    with suppress(WeightsError):
        typical.require_model("another", "x")


#: Fingerprint of the weights that projections are made for.
_PROJECTED = "a" * 64


def _projection_seeds(folder: Path) -> list[Path]:
    (folder / "made").mkdir(parents=True)
    projection = _random(Projection(layer=1, hidden_size=24, size=4))
    projection.model = _PROJECTED
    projection.save(folder / "made", {"trained_on": "x"})
    return each_file(folder, folder / "made")


def _load_projection(path: Path) -> None:
    projection = Projection.load(path.parent, DecoderSettings(**_SETTINGS["decoder"]))
    assert projection is not None
    projection.require_model(_PROJECTED, "x")
    if all(torch.isfinite(value).all() for value in projection.state_dict().values()):
        projection.image(torch.ones(1, 24))


def _draft_seeds(folder: Path) -> list[Path]:
    from chexmix_cli.core.settings.inference import DraftSettings

    (folder / "made").mkdir(parents=True)
    reports = [(patient, [7, 8, 9, 10, 11, 9 + patient]) for patient in range(5)]
    settings = DraftSettings(min_patients=2)
    DraftIndex.build(reports, _VOCABULARY, settings, tokenizer="abc").save(folder / "made" / "drafts.safetensors")
    return each_file(folder, folder / "made")


def _load_drafts(path: Path) -> None:
    index = DraftIndex.load(path, tokenizer="abc", vocabulary=_VOCABULARY)
    for ids in ([], [7], [7, 8, 9], [_NUM_TEXT - 1] * 20):
        found = index.draft(ids, 8)
        assert len(found) <= 8
        assert all(type(number) is int and number >= 0 for number in found), found


PARSERS = [
    Parser(name="weights: safetensors", seeds=_model_seeds, read=_load_all, changes=SAFETENSORS),
    Parser(name="weights: index and its files", seeds=_index_seeds, read=_load_index, changes=(*JSON, *BYTES)),
    Parser(name="weights: released layout", seeds=_released_seeds, read=_load_released, changes=JSON),
    Parser(name="weights: GGUF", seeds=_gguf_seeds, read=_load_gguf, changes=BYTES),
    Parser(name="weights: VQGAN checkpoints", seeds=_pickle_seeds, read=_load_pickle, changes=(*BYTES, *ZIP)),
    Parser(
        name="training checkpoints",
        seeds=_checkpoint_seeds,
        read=_load_checkpoint,
        changes=(*JSON, *BYTES),
        writes=True,
    ),
    Parser(name="tokenizer files", seeds=_tokenizer_seeds, read=_load_tokenizer, changes=JSON),
    Parser(name="heads", seeds=_asset_seeds("head.safetensors"), read=_load_head, changes=SAFETENSORS),
    Parser(name="typical films", seeds=_asset_seeds("typical.safetensors"), read=_load_typical, changes=SAFETENSORS),
    Parser(name="projections", seeds=_projection_seeds, read=_load_projection, changes=SAFETENSORS),
    Parser(name="draft indexes", seeds=_draft_seeds, read=_load_drafts, changes=SAFETENSORS),
]
