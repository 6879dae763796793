"""What plans are made of: live bytes against a hand count, exact extrapolation, sizes that stay small, verdicts."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from chexmix_cli.core.models.decoder import Decoder, narrowed
from chexmix_cli.core.models.quantized import quantized_state
from chexmix_cli.core.models.vqgan import Vqgan
from chexmix_cli.core.plan.measure import LiveBytes, Plan, Point, Remedy, extrapolate, module_bytes
from chexmix_cli.core.plan.reports import decoder_bytes, encode_costs, plan_generate_report
from chexmix_cli.core.plan.sizes import (
    MEASURED_PARAMETERS,
    Limits,
    cut_decoder,
    decoder_parameters,
    decoder_sizes,
    picture_sizes,
)
from chexmix_cli.core.rates import flop_rate
from chexmix_cli.core.settings.inference import DecodeSettings, GenerateReportSettings, InputSettings
from chexmix_cli.core.settings.load import build, read_preset
from chexmix_cli.core.settings.model import ModelSettings
from chexmix_cli.core.train.flop import vqgan_flop


def preset(name: str) -> ModelSettings:
    return build(ModelSettings, read_preset("model", name))


def test_live_bytes_are_those_of_a_hand_count():
    network = nn.Sequential(nn.Linear(100, 1000), nn.ReLU(), nn.Linear(1000, 10))
    x = torch.randn(64, 100)
    weights, trained = module_bytes(network)
    assert weights == trained == 4 * (100 * 1000 + 1000 + 1000 * 10 + 10)
    with LiveBytes(network) as live:
        y = network(x)
        # The first layer's output is gone when ReLU's is there; at the peak both are.
        assert live.now == 4 * 64 * (1000 + 10)
        assert live.peak == 4 * 64 * 2000
        y.sum().backward()
        del y
        assert live.now == trained
        live.restart()
        assert live.peak == trained
        network.zero_grad(set_to_none=True)
        assert live.now == 0


def test_views_and_what_was_there_before_count_once_or_not_at_all():
    layer = nn.Linear(8, 8)
    with LiveBytes(layer) as live:
        base = torch.zeros(1000)
        views = [base[:10], base.view(10, 100), base[5:]]
        assert live.now == 4000
        layer.weight.detach().add_(1)
        assert live.now == 4000
        del base
        assert live.now == 4000  # the views hold it
        del views
        assert live.now == 0


def test_extrapolation_is_exact_where_costs_are_linear():
    def cost(layers: float, rows: float) -> dict[str, float]:
        return {"bytes": 7 + 3 * layers + 0.5 * rows, "s": 2 * layers}

    points = [Point({"layers": n, "rows": r}, cost(n, r)) for n, r in ((1, 100), (3, 100), (1, 400))]
    assert extrapolate(points, {"layers": 32, "rows": 5000}) == pytest.approx(cost(32, 5000), abs=1e-6)
    assert extrapolate(points[:2], {"layers": 8, "rows": 100}) == pytest.approx(cost(8, 100))


def test_noise_never_makes_more_cost_less():
    points = [Point({"layers": 1.0}, {"s": 1.01}), Point({"layers": 3.0}, {"s": 1.0})]
    assert extrapolate(points, {"layers": 300})["s"] > 0.9


@pytest.mark.parametrize("name", ["debug", "mini", "phi2"])
def test_parameters_follow_from_the_shape(name):
    shape = preset(name).decoder
    with torch.device("meta"):
        decoder = Decoder(dataclasses.replace(shape, num_layers=2))
    found = sum(parameter.numel() for parameter in decoder.parameters())
    assert decoder_parameters(shape, layers=2, rows=shape.num_rows) == found


@pytest.mark.parametrize(("name", "flop"), [("debug", 1e12), ("mini", 1e9), ("phi2", 5e10)])
def test_measured_decoders_are_small_and_span_layers_and_rows(name, flop):
    model = preset(name)
    limits = Limits(MEASURED_PARAMETERS, flop)
    sizes = decoder_sizes(model.decoder, tokens=1100, side_codes=model.grid_size, examples=4, limits=limits)
    assert len({size.layers for size in sizes}) == 2
    for size in sizes:
        cut = cut_decoder(model, size)
        assert decoder_parameters(cut.decoder, layers=size.layers, rows=size.rows) <= 1.05 * MEASURED_PARAMETERS
        assert cut.vocabulary.num_rows == cut.decoder.num_rows == size.rows
        assert cut.decoder.num_layers == size.layers
        assert cut.vocabulary.tokens_per_image == model.vocabulary.tokens_per_image // size.shorter
    assert len({size.rows for size in sizes}) == 2 or model.decoder.num_rows < 2000
    if name == "phi2":
        assert sizes[0].share < 4
        # The base with another number of documents tells what does not depend on them.
        assert sizes[-1] == dataclasses.replace(sizes[0], examples=2)


def test_measured_pictures_are_the_full_ones_if_that_is_cheap():
    limits = Limits(1e9, 1e9)
    (only,) = picture_sizes(128, examples=8, flop=1e8, step_px=8, limits=limits)
    assert (only.side_px, only.examples) == (128, 8)
    fewer = picture_sizes(128, examples=8, flop=4e8, step_px=8, limits=limits)
    assert [(size.side_px, size.examples) for size in fewer] == [(128, 2), (128, 1)]
    smaller = picture_sizes(512, examples=8, flop=1e10, step_px=16, limits=limits)
    assert [(size.side_px, size.examples) for size in smaller] == [(128, 1), (64, 1)]


def test_a_plan_says_by_how_much_it_does_not_fit():
    plan = Plan("x", {"weights": 300, "activations": 200}, 400, {"step": 1.0}, {}, [Remedy("less", 350)], ["so"])
    assert (plan.peak_bytes, plan.fits) == (500, False)
    record = plan.record()
    assert (record["short_bytes"], record["remedies"]) == (100, [{"what": "less", "peak_bytes": 350, "fits": True}])
    assert dataclasses.replace(plan, available_bytes=500).fits


def test_flop_of_the_image_tokenizer_are_counted_without_computing():
    settings = preset("phi2").vqgan
    encode, decode = vqgan_flop(settings, 512)
    assert 1.4e12 < encode + decode < 1.7e12  # CHEXMIX.md: about 550 GFLOP to encode, more to decode
    assert 5e11 < encode < 6e11
    assert encode + decode > 3.9 * sum(vqgan_flop(settings, 256))
    assert flop_rate(torch.float32, torch.device("cpu")) > 1e8


@pytest.mark.parametrize("quantize", ["int8", "int4"])
def test_the_bytes_of_a_quantised_decoder_are_those_that_it_has(quantize):
    shape = dataclasses.replace(preset("debug").decoder, num_rows=700, hidden_size=72, mlp_size=300)
    decoder = Decoder(shape).bfloat16()
    for device in map(torch.device, ("cpu", "cuda")):
        with torch.device("meta"):
            planned = decoder_bytes(decoder.settings, quantize, torch.bfloat16, device)
        held = [quantized_state(name, value, quantize, device) for name, value in decoder.state_dict().items()]
        assert planned == sum(value.nbytes for part in held for value in part.values())
    assert decoder_bytes(decoder.settings, None, torch.bfloat16, device) == module_bytes(decoder)[0]


def test_a_card_of_8_gb_has_room_for_the_released_size_in_8_and_in_4_bits():
    """Weights alone; docs/plan.md has the rest. In bfloat16 they take more than half of what is there."""
    shape, card = preset("phi2").decoder, torch.device("cuda")
    sizes = [decoder_bytes(shape, how, torch.bfloat16, card) / 2**30 for how in (None, "int8", "int4")]
    assert sizes == pytest.approx([5.25, 2.76, 1.74], abs=0.02)


@pytest.mark.parametrize("quantize", [None, "int4"])
def test_the_planned_memory_of_reports_is_that_of_the_full_engine(quantize):
    """Layers, vocabulary and cache carried over from smaller ones: within 5 % of what the whole model has alive."""
    from chexmix_cli.core.infer.decoding.drafts import OwnText
    from chexmix_cli.core.infer.reports.engine import report_engine

    base = preset("debug")
    model = dataclasses.replace(base, decoder=dataclasses.replace(base.decoder, num_layers=9, hidden_size=64))
    # A fixed number of drafts: the passes that are measured otherwise take more than a model as small as this.
    decode = DecodeSettings(max_new_tokens=40, min_new_tokens=40, draft_rows=8)
    settings = GenerateReportSettings(input=InputSettings(batch_size=3), decode=decode, quantize=quantize)
    device = torch.device("cpu")
    plan = plan_generate_report(model, settings, dtype=torch.float32, image_dtype=torch.float32, device=device)
    decoder = Decoder(model.decoder) if quantize is None else narrowed(Decoder(model.decoder), quantize, device)
    engine = report_engine(decoder, model.vocabulary)
    prompts = [model.vocabulary.report_prompt([code] * 16) for code in range(3)]
    with LiveBytes(decoder) as live:
        engine.generate(prompts, settings.decode, drafter=OwnText())  # its places of the cache are planned, too
    encode_bytes, encode_s = encode_costs(model, Vqgan(model.vqgan), 3)
    assert plan.memory["reports"] == pytest.approx(max(live.peak, encode_bytes), rel=0.05)
    assert plan.memory["decoder"] == module_bytes(decoder)[0]
    assert plan.memory["films kept"] == settings.input.prefix_memory_mb * 2**20
    assert encode_s > 0
    assert plan.times["reports"] > 40 * plan.times["token"] > 0
