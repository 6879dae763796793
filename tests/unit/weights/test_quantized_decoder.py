"""A decoder with 8-bit or 4-bit matrices, loaded from a directory, against float64 with the numbers those stand for."""

from __future__ import annotations

import copy
import json
import struct
import weakref

import pytest
import torch

from chexmix_cli.core.errors import WeightsError
from chexmix_cli.core.infer.reports.engine import report_engine
from chexmix_cli.core.kernels.quantized import native, reference
from chexmix_cli.core.models import quantized
from chexmix_cli.core.models.decoder import Decoder
from chexmix_cli.core.models.quantized import quantized_state
from chexmix_cli.core.settings.inference import DecodeSettings
from chexmix_cli.core.weights import open_weights

WAYS = ("int8", "int4")


def restored(like: Decoder, quantize: str) -> Decoder:
    """Return a float64 decoder with the numbers that a quantised one's weights stand for."""
    state = {name: value.double() for name, value in like.state_dict().items()}
    for name in state:
        bits = quantized._BITS[quantize].get(name.removesuffix(".weight").rpartition(".")[2])
        if bits and name.endswith(".weight"):
            narrow = reference.quantize_8 if bits == 8 else reference.quantize_4
            state[name] = reference.restore(*narrow(like.state_dict()[name], where=name)).double()
    found = Decoder(like.settings).double()
    found.load_state_dict(state)
    return found.eval()


def difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found.double() - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("quantize", WAYS)
@torch.inference_mode()
def test_a_cards_layers_compute_with_the_numbers_they_stand_for(tiny_dir, tiny, tiny_decoder, monkeypatch, quantize):
    """Activations are not rounded there, so nothing is lost besides. Computed here by torch, as a card's layers can."""
    monkeypatch.setattr(quantized, "layer_kind", lambda bits, _: quantized._Card8 if bits == 8 else quantized._Card4)
    loaded = open_weights(tiny_dir).load_decoder("cpu", torch.float32, quantize=quantize)
    exact = restored(tiny_decoder, quantize)
    ids_BT = torch.randint(tiny.vocabulary.num_rows, (1, 30), generator=torch.Generator().manual_seed(0))
    assert difference(loaded.logits(loaded(ids_BT)), exact.logits(exact(ids_BT))) <= 1e-5
    some = slice(5, 21)
    assert difference(loaded.logits(loaded(ids_BT), some), exact.logits(exact(ids_BT), some)) <= 1e-5


@pytest.mark.parametrize("quantize", WAYS)
def test_a_card_has_the_file_of_a_cpu_with_kernels(monkeypatch, quantize):
    cpu, card = (torch.device(name) for name in ("cpu", "cuda"))
    monkeypatch.setattr(native, "uses_native", lambda: True)
    assert quantized.packing(quantize, cpu) == quantized.packing(quantize, card)
    weight = torch.randn(50, 70, generator=torch.Generator().manual_seed(0))
    of_cpu, of_card = (quantized_state("blocks.0.input_proj.weight", weight, quantize, one) for one in (cpu, card))
    assert of_cpu.keys() == of_card.keys() == {"blocks.0.input_proj.weight", "blocks.0.input_proj.scale"}
    assert all(torch.equal(of_cpu[name], of_card[name]) for name in of_cpu)
    monkeypatch.setattr(native, "uses_native", lambda: False)
    assert quantized.packing(quantize, cpu) != quantized.packing(quantize, card)


@pytest.fixture(params=["native", "torch", "torch, 8-bit products"])
def kernels(request, monkeypatch) -> str:
    """Run a test with each implementation."""
    if request.param == "native":
        if native.best_level() == 0:
            pytest.skip("the kernels are not compiled, or not for this CPU")
        return "native"
    monkeypatch.setenv("CHEXMIX_KERNELS", "torch")
    monkeypatch.setattr(quantized, "has_cpu_int8", lambda: "8-bit" in request.param)
    return "torch"


@pytest.mark.parametrize("quantize", WAYS)
@torch.inference_mode()
def test_what_is_loaded_computes_with_the_numbers_it_stands_for(tiny_dir, tiny, tiny_decoder, kernels, quantize):
    loaded = open_weights(tiny_dir).load_decoder("cpu", torch.float32, quantize=quantize)
    kinds = {name: type(getattr(owner, name)).__name__ for owner, name in loaded.linear_layers()}
    prefix, own = ("_Native" if kernels == "native" else "_Torch"), quantize.removeprefix("int")
    assert kinds == {"input_proj": prefix + own, "output_proj": prefix + own, "head": f"{prefix}8"}
    assert torch.equal(loaded.embedding.weight, tiny_decoder.embedding.weight)
    exact = restored(tiny_decoder, quantize)
    ids_BT = torch.randint(tiny.vocabulary.num_rows, (1, 30), generator=torch.Generator().manual_seed(0))
    expected = exact.logits(exact(ids_BT))
    found = loaded.logits(loaded(ids_BT))
    rounding = 0.03
    assert difference(found, expected) <= rounding
    # What the weights lose is told apart from that in 4 bits: the float model's own logits are further away.
    lost = difference(tiny_decoder.logits(tiny_decoder(ids_BT)), expected)
    assert lost > (rounding if quantize == "int4" else 1e-3)


@pytest.mark.parametrize("quantize", WAYS)
@torch.inference_mode()
def test_decoding_with_a_cache_is_the_whole_pass(tiny_dir, tiny, kernels, quantize):
    """Bit for bit but for attention's own sums where kernels run; torch takes another product for few rows."""
    loaded = open_weights(tiny_dir).load_decoder("cpu", torch.float32, quantize=quantize)
    ids_BT = torch.randint(tiny.vocabulary.num_rows, (1, 30), generator=torch.Generator().manual_seed(0))
    expected = loaded.logits(loaded(ids_BT)).double()
    cache = loaded.new_cache(1, 30)
    parts = [loaded(part, cache=cache) for part in ids_BT.split([20, 1, 1, 8], dim=1)]
    assert difference(loaded.logits(torch.cat(parts, dim=1)), expected) <= (1e-5 if kernels == "native" else 0.05)


@torch.inference_mode()
def test_activations_in_bfloat16_have_products_in_bfloat16(tiny_dir, tiny, tiny_decoder, kernels):
    loaded = open_weights(tiny_dir).load_decoder("cpu", torch.bfloat16, quantize="int4")
    exact = restored(copy.deepcopy(tiny_decoder).bfloat16(), "int4")
    ids_BT = torch.randint(tiny.vocabulary.num_rows, (2, 9), generator=torch.Generator().manual_seed(0))
    found = loaded.logits(loaded(ids_BT))
    assert found.dtype == torch.bfloat16
    assert difference(found, exact.logits(exact(ids_BT))) <= 0.05


def test_weights_take_a_byte_each_or_little_more_than_half_of_one(tiny_dir, kernels, monkeypatch):
    weights = open_weights(tiny_dir)
    plain = weights.load_decoder("cpu", torch.float32)
    for quantize, size in (("int8", 1.0), ("int4", 0.5)):
        loaded = weights.load_decoder("cpu", torch.float32, quantize=quantize)
        for (owner, name), (other, _) in zip(loaded.linear_layers(), plain.linear_layers(), strict=True):
            layer, like = getattr(owner, name), getattr(other, name)
            num_out, num_in = like.weight.shape
            # Filled up to whole panels (or torch's blocks) and groups.
            most = (num_out + 63) * (num_in + 31) * (size if name != "head" else 1.0)
            assert layer.weight.nbytes <= most < like.weight.nbytes * 2


def test_each_matrix_is_narrowed_before_the_next_is_read(tiny_dir, monkeypatch):
    """The bytes of full matrices alive at once are those of one: what came before has been let go of."""
    alive: list[weakref.ref[torch.Tensor]] = []
    most = 0

    def watch(parameter, value, quantize, device):
        nonlocal most
        found = quantized_state(parameter, value, quantize, device)
        if len(found) == 2:
            alive.append(weakref.ref(value))
            most = max(most, sum(one() is not None for one in alive))
        return found

    monkeypatch.setattr("chexmix_cli.core.models.quantized.quantized_state", watch)
    open_weights(tiny_dir).load_decoder("cpu", torch.float32, quantize="int8")
    assert (len(alive), most) == (5, 1)


@pytest.mark.parametrize("quantize", WAYS)
def test_reports_come_out_of_it_and_do_not_depend_on_the_batch(tiny_dir, tiny, kernels, quantize):
    decoder = open_weights(tiny_dir).load_decoder("cpu", torch.float32, quantize=quantize)
    prompts = [tiny.vocabulary.report_prompt([code] * tiny.vocabulary.tokens_per_image) for code in (3, 3, 5)]
    engine = report_engine(decoder, tiny.vocabulary)
    together = [one.token_ids for one in engine.generate(prompts, DecodeSettings(max_new_tokens=6))]
    assert len(together[0]) == 6
    assert together[0] == together[1]
    if kernels == "native":
        alone = [engine.generate([one], DecodeSettings(max_new_tokens=6))[0].token_ids for one in prompts]
        assert alone == together


@pytest.mark.parametrize("quantize", WAYS)
def test_weights_that_are_not_finite_are_refused_by_name(tiny_dir, quantize):
    path = tiny_dir / "model.safetensors"
    data = bytearray(path.read_bytes())
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    start = 8 + length + header["model.layers.1.mlp.fc1.weight"]["data_offsets"][0]
    data[start : start + 4] = struct.pack("<f", float("nan"))
    path.write_bytes(data)
    with pytest.raises(WeightsError, match=r"model\.layers\.1\.mlp\.fc1\.weight holds numbers that are not finite"):
        open_weights(tiny_dir).load_decoder("cpu", torch.float32, quantize=quantize)
