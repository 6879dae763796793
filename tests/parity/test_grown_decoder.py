"""A PhiForCausalLM of transformers grown to a vocabulary with images: text as before, the new ids no louder than it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from chexmix_cli.core.errors import WeightsError
from chexmix_cli.core.settings.model import DecoderSettings
from chexmix_cli.core.vocab import Vocabulary
from chexmix_cli.core.weights.growth import holds_language_model, load_grown_decoder

#: As the released one, smaller: 90 text ids of which the language model's last ones are never used.
VOCABULARY = Vocabulary(
    num_text=90,
    num_codes=40,
    image_start=90,
    tokens_per_image=16,
    begin_text=70,
    begin_image=80,
    end_image=81,
    mask=130,
    pad=131,
    num_rows=132,
)
SHAPE = {"hidden_size": 32, "num_layers": 2, "num_heads": 2, "mlp_size": 64, "rotary_size": 6, "max_positions": 64}
SETTINGS = DecoderSettings(num_rows=132, residual_dropout=0.2, **SHAPE)
KEPT = [row for row in range(90) if row not in (80, 81)]


@pytest.fixture
def save_phi(make_pair):
    """Return a function that saves a random PhiForCausalLM, as transformers saves it, and returns it."""

    def save(folder: Path, *, num_rows: int = 100, tied: bool = False, **how: object):
        phi, _ = make_pair(DecoderSettings(num_rows=num_rows, residual_dropout=0.0, **SHAPE), seed=3)
        with torch.no_grad():
            phi.lm_head.bias -= 6.0
        if tied:
            phi.config.tie_word_embeddings = True
            phi.lm_head.weight = phi.model.embed_tokens.weight
        phi.save_pretrained(folder, **how)
        return phi

    return save


def grow(folder: Path, vocabulary: Vocabulary = VOCABULARY, settings: DecoderSettings = SETTINGS):
    return load_grown_decoder(folder, settings, vocabulary, torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("how", "name"),
    [({}, "model.safetensors"), ({"max_shard_size": "20KB"}, "model.safetensors.index.json"), ({"tied": True}, None)],
    ids=["one file", "several files", "tied head"],
)
def test_text_logits_are_the_language_models(save_phi, tmp_path, how, name):
    phi = save_phi(tmp_path, **how)
    assert holds_language_model(tmp_path)
    assert name is None or (tmp_path / name).is_file()
    decoder = grow(tmp_path)
    assert decoder.settings == SETTINGS
    ids_BT = torch.tensor(KEPT)[torch.randint(len(KEPT), (3, 40), generator=torch.Generator().manual_seed(0))]
    with torch.no_grad():
        found, expected = decoder.logits(decoder(ids_BT)), phi(ids_BT).logits
    scale = float(expected.abs().max())
    assert float((found[..., KEPT] - expected[..., KEPT]).abs().max()) < 1e-5 * scale
    rows = torch.tensor(KEPT)
    assert torch.equal(decoder.embedding.weight[rows], phi.get_input_embeddings().weight[rows])
    assert torch.equal(decoder.head.weight[rows], phi.lm_head.weight[rows])
    assert torch.equal(decoder.head.bias[rows], phi.lm_head.bias[rows])


def test_new_rows_have_the_old_ones_mean_and_deviation_and_are_no_copies(save_phi, tmp_path):
    vocabulary = Vocabulary(**{**_values(VOCABULARY), "num_codes": 8000, "mask": 8090, "pad": 8091, "num_rows": 8092})
    settings = DecoderSettings(num_rows=8092, residual_dropout=0.0, **SHAPE)
    save_phi(tmp_path)
    decoder = grow(tmp_path, vocabulary, settings)
    for weight in (decoder.embedding.weight, decoder.head.weight):
        kept, new = weight[torch.tensor(KEPT)].detach(), weight[[80, 81, *range(90, 8092)]].detach()
        assert torch.allclose(new.mean(dim=0), kept.mean(dim=0), atol=0.02)
        assert torch.allclose(new.std(dim=0), kept.std(dim=0), rtol=0.05)
        assert len(new.unique(dim=0)) == len(new)
    assert torch.allclose(decoder.head.bias[90:], decoder.head.bias[torch.tensor(KEPT)].mean())
    assert not torch.equal(decoder.embedding.weight[90:], decoder.head.weight[90:])


def _values(vocabulary: Vocabulary) -> dict[str, int]:
    return {name: getattr(vocabulary, name) for name in Vocabulary.__dataclass_fields__}


def test_new_ids_start_with_about_their_share_of_the_probability(save_phi, tmp_path):
    save_phi(tmp_path)
    decoder = grow(tmp_path)
    ids_BT = torch.tensor(KEPT)[torch.randint(len(KEPT), (8, 40), generator=torch.Generator().manual_seed(0))]
    with torch.no_grad():
        share = float(decoder.logits(decoder(ids_BT)).softmax(dim=-1)[..., 90:].sum(dim=-1).mean())
        # An initialiser's rows beside a trained head whose logits lie around -6.
        decoder.head.weight[90:].normal_(std=0.02)
        decoder.head.bias[90:] = 0.0
        loud = float(decoder.logits(decoder(ids_BT)).softmax(dim=-1)[..., 90:].sum(dim=-1).mean())
    assert 0.15 < share < 0.55  # 42 of 132 rows are 0.32
    assert loud > 0.95


def test_growth_is_a_function_of_the_seed(save_phi, tmp_path):
    save_phi(tmp_path)
    first, again = grow(tmp_path), grow(tmp_path)
    other = load_grown_decoder(tmp_path, SETTINGS, VOCABULARY, torch.Generator().manual_seed(2))
    assert torch.equal(first.embedding.weight, again.embedding.weight)
    assert not torch.equal(first.embedding.weight, other.embedding.weight)


def test_another_shape_or_too_few_rows_are_refused(save_phi, tmp_path):
    save_phi(tmp_path, num_rows=60)
    with pytest.raises(WeightsError, match="vocab_size is 60; expected the 90 text ids"):
        grow(tmp_path)
    wider = DecoderSettings(num_rows=132, **{**SHAPE, "mlp_size": 65})
    with pytest.raises(WeightsError, match="its decoder differs in mlp_size; expected the decoder in training"):
        grow(tmp_path, settings=wider)


def test_damaged_folders_are_refused(save_phi, tmp_path):
    save_phi(tmp_path, max_shard_size="20KB")
    index = tmp_path / "model.safetensors.index.json"
    good = index.read_text()
    weight_map = json.loads(good)["weight_map"]
    key, name = next(iter(weight_map.items()))
    for changed, message in (
        ("{}", "is no index of weights"),
        (json.dumps({"weight_map": {**weight_map, key: "../elsewhere.safetensors"}}), "outside its folder"),
        (json.dumps({"weight_map": {**weight_map, key: "gone.safetensors"}}), "gone.safetensors is missing"),
        (json.dumps({"weight_map": {**weight_map, "more": name}}), f"more is not in {name}"),
        (json.dumps({"weight_map": {**weight_map, key: _other(weight_map, name)}}), f"{key} is not in"),
    ):
        index.write_text(changed)
        with pytest.raises(WeightsError, match=message.replace(".", r"\.")):
            grow(tmp_path)
    index.unlink()
    with pytest.raises(WeightsError, match=r"part of a decoder without model\.safetensors\.index\.json"):
        grow(tmp_path)


def _other(weight_map: dict[str, str], name: str) -> str:
    return next(other for other in weight_map.values() if other != name)
