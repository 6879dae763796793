"""A decoder with 8-bit matrices, loaded from a directory, against float64 with the very numbers those matrices hold."""

from __future__ import annotations

import json
import struct
import weakref
from dataclasses import replace

import pytest
import torch

from chexmix_cli.core.errors import WeightsError
from chexmix_cli.core.infer.reports.engine import report_engine
from chexmix_cli.core.models import linear
from chexmix_cli.core.models.decoder import Decoder, int8_state
from chexmix_cli.core.settings.inference import DecodeSettings
from chexmix_cli.core.weights import open_weights, save_model
from tests.unit.weights.conftest import randomised


def restored(decoder: Decoder, like: Decoder) -> Decoder:
    """Return a float64 decoder with the numbers of an 8-bit one."""
    state = {name: value.double() for name, value in decoder.state_dict().items()}
    for name in [name for name in state if name.endswith(".scale")]:
        state[name.replace(".scale", ".weight")] *= state.pop(name)[:, None]
    found = Decoder(like.settings).double()
    found.load_state_dict(state)
    return found.eval()


def difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found.double() - expected).abs().max() / expected.abs().max())


@pytest.fixture(params=[False, True], ids=["widened", "8-bit"])
def rounding(request, monkeypatch) -> float:
    """Return the relative rounding of a prompt's product: float32's, or, where a CPU multiplies 8 bits, theirs."""
    monkeypatch.setattr(linear, "has_cpu_int8", lambda: request.param)
    return 0.03 if request.param else 1e-4


@torch.inference_mode()
def test_what_is_loaded_computes_with_the_numbers_it_holds(tiny_dir, tiny, tiny_decoder, rounding):
    quantized = open_weights(tiny_dir).load_decoder("cpu", torch.float32, quantize="int8")
    for owner, name in quantized.linear_layers():
        assert getattr(owner, name).weight.dtype == torch.int8
    assert torch.equal(quantized.embedding.weight, tiny_decoder.embedding.weight)
    reference = restored(quantized, tiny_decoder)
    ids_BT = torch.randint(tiny.vocabulary.num_rows, (1, 30), generator=torch.Generator().manual_seed(0))
    expected = reference.logits(reference(ids_BT))
    found = quantized.logits(quantized(ids_BT))
    assert difference(found, expected) <= rounding
    # What 8 bits of the weights lose is another order than float32's: the float model's own logits are told from these.
    assert difference(tiny_decoder.logits(tiny_decoder(ids_BT)), expected) > 1e-3


@torch.inference_mode()
def test_decoding_with_a_cache_is_the_whole_pass(tmp_path, tiny, tiny_vqgan, tokenizer_json, rounding):
    """Few rows take torch's 8-bit product in bfloat16, a prompt another one: they differ by rounding only."""
    wide = replace(tiny, decoder=replace(tiny.decoder, hidden_size=2 * linear._VECTOR, mlp_size=3 * linear._VECTOR))
    decoder = randomised(Decoder(wide.decoder), seed=3)
    save_model(tmp_path / "wide", wide, decoder=decoder, vqgan=tiny_vqgan, tokenizer_file=tokenizer_json)
    quantized = open_weights(tmp_path / "wide").load_decoder("cpu", torch.float32, quantize="int8")
    reference = restored(quantized, decoder)
    ids_BT = torch.randint(tiny.vocabulary.num_rows, (1, 30), generator=torch.Generator().manual_seed(0))
    expected = reference.logits(reference(ids_BT))
    cache = quantized.new_cache(1, 30)
    parts = [quantized(part, cache=cache) for part in ids_BT.split([20, 1, 1, 8], dim=1)]
    assert difference(quantized.logits(torch.cat(parts, dim=1)), expected) <= 0.05
    assert difference(quantized.logits(parts[0]), expected[:, :20]) <= rounding


def test_weights_take_a_byte_each(tiny_dir, tiny):
    weights = open_weights(tiny_dir)
    sizes = {}
    for quantize in (None, "int8"):
        state = weights.load_decoder("cpu", torch.bfloat16, quantize=quantize).state_dict()
        sizes[quantize] = sum(
            value.nbytes for name, value in state.items() if value.dim() == 2 and name != "embedding.weight"
        )
    assert sizes["int8"] * 2 == sizes[None]


def test_each_matrix_is_narrowed_before_the_next_is_read(tiny_dir, monkeypatch):
    """The bytes of full matrices alive at once are those of one: what came before has been let go of."""
    alive: list[weakref.ref[torch.Tensor]] = []
    most = 0

    def watch(parameter, value):
        nonlocal most
        found = int8_state(parameter, value)
        if len(found) == 2:
            alive.append(weakref.ref(value))
            most = max(most, sum(one() is not None for one in alive))
        return found

    monkeypatch.setattr("chexmix_cli.core.models.decoder.int8_state", watch)
    open_weights(tiny_dir).load_decoder("cpu", torch.float32, quantize="int8")
    assert (len(alive), most) == (5, 1)


def test_reports_come_out_of_it(tiny_dir, tiny):
    decoder = open_weights(tiny_dir).load_decoder("cpu", torch.float32, quantize="int8")
    prompt = tiny.vocabulary.report_prompt([3] * tiny.vocabulary.tokens_per_image)
    one = report_engine(decoder, tiny.vocabulary).generate([prompt, prompt], DecodeSettings(max_new_tokens=6))
    assert len(one[0].token_ids) == 6
    assert one[0].token_ids == one[1].token_ids


def test_weights_that_are_not_finite_are_refused_by_name(tiny_dir):
    path = tiny_dir / "model.safetensors"
    data = bytearray(path.read_bytes())
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    start = 8 + length + header["model.layers.1.mlp.fc1.weight"]["data_offsets"][0]
    data[start : start + 4] = struct.pack("<f", float("nan"))
    path.write_bytes(data)
    with pytest.raises(WeightsError, match=r"blocks\.1\.input_proj\.weight.*not finite"):
        open_weights(tiny_dir).load_decoder("cpu", torch.float32, quantize="int8")
