"""``chexmix plan generate-report``: memory and time of writing reports, before any weights are read.

The engine runs on a decoder cut down in layers and vocabulary, with random weights, quantised if that is asked for;
what it cost is carried to the full size. The bytes of weights and of the key-value cache follow from the shapes alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch

from chexmix_cli.core.infer.decoding.engine import spare_places
from chexmix_cli.core.infer.image_tokenizer import ImageTokenizer
from chexmix_cli.core.infer.reports.engine import report_engine
from chexmix_cli.core.models.decoder import Decoder, narrowed
from chexmix_cli.core.models.init import init_decoder
from chexmix_cli.core.models.meta import on_meta_device
from chexmix_cli.core.models.vqgan import Vqgan
from chexmix_cli.core.plan.measure import LiveBytes, Parts, Plan, Point, extrapolate, module_bytes
from chexmix_cli.core.plan.sizes import (
    MEASURED_PARAMETERS,
    DecoderSize,
    Limits,
    cut_decoder,
    decoder_sizes,
    picture_sizes,
)
from chexmix_cli.core.rates import flop_rate, seconds
from chexmix_cli.core.runtime import available_memory, resident_memory, seeded_generator
from chexmix_cli.core.settings.inference import GenerateReportSettings, Quantize
from chexmix_cli.core.settings.model import DecoderSettings, ModelSettings
from chexmix_cli.core.train.flop import vqgan_flop

#: Seconds that one measured pass may take, by the rate of matrix products.
PASS_S = 1.5
#: New tokens of a measured report.
_NEW_TOKENS = 9
#: What a process takes of a card before the first tensor: assumed, for CUDA's context and cuBLAS.
_CONTEXT_BYTES = 600 << 20


def plan_generate_report(
    model: ModelSettings,
    settings: GenerateReportSettings,
    *,
    dtype: torch.dtype,
    image_dtype: torch.dtype,
    device: torch.device,
    memory_bytes: int | None = None,
    show: Callable[[int, int | None], None] = lambda done, total: None,
) -> Plan:
    """Return the plan of writing reports with a model.

    Args:
        model: its settings; no weights are read.
        settings: batch size and length of reports, and the bits of the decoder's weights.
        dtype, image_dtype: of the decoder and of the image tokenizer.
        device: that will run them, and that measures.
        memory_bytes: of the machine or the card planned for; default: what is free here.
        show: called with (measurements done, in all).

    Raises:
        MachineError: if the system does not tell its memory.
    """
    base = _CONTEXT_BYTES if device.type == "cuda" else resident_memory()
    available = memory_bytes if memory_bytes is not None else available_memory(device) + base
    shape, batch_size = model.decoder, settings.input.batch_size
    limits = Limits(MEASURED_PARAMETERS, flop_rate(dtype, device) * PASS_S)
    tokens = model.vocabulary.prompt_length
    sizes = decoder_sizes(shape, tokens=tokens, side_codes=model.grid_size, examples=batch_size, limits=limits)
    points = []
    parts, measured = Parts(show), list({(one.layers, one.rows): one for one in sizes}.values())
    parts.expect(len(measured) + 1)
    for size in measured:
        whole = dataclasses.replace(size, examples=batch_size, shorter=sizes[0].shorter)
        points.append(
            Point({"layers": size.layers, "rows": size.rows}, _measure(model, settings, whole, dtype, device))
        )
        parts.finish()
    found = extrapolate(points, {"layers": shape.num_layers, "rows": shape.num_rows})
    parameters = shape.num_parameters
    later = settings.decode.max_new_tokens - _NEW_TOKENS
    if batch_size > 1 and settings.decode.uses_drafts:
        later += spare_places(settings.decode.max_new_tokens)
    cache = 2 * shape.num_layers * batch_size * shape.hidden_size * later * dtype.itemsize
    kept = settings.input.prefix_memory_mb * 2**20
    prompt = (2 * shape.num_layers * tokens + 1) * shape.hidden_size * dtype.itemsize
    vqgan = Vqgan(model.vqgan).eval().to(device, image_dtype)
    images_at_once = ImageTokenizer(vqgan, model, batch_size=batch_size).batch_size
    encode_bytes, encode_s = encode_costs(model, vqgan, images_at_once)
    parts.finish()
    memory = {
        "process": base,
        "decoder": decoder_bytes(shape, settings.quantize, dtype, device),
        "films kept": kept if prompt <= kept else 0,
        "image tokenizer": module_bytes(vqgan)[0],
        "reports": max(round(found["bytes"]) + max(0, cache), encode_bytes),
    }
    times = {"encode": encode_s, "prompt": found["prompt_s"], "token": found["token_s"]}
    times["reports"] = batch_size * encode_s + found["prompt_s"] + settings.decode.max_new_tokens * found["token_s"]
    return Plan(
        command="generate-report",
        memory=memory,
        available_bytes=available,
        times=times,
        sizes={"parameters": parameters, "batch_size": batch_size, "new_tokens": settings.decode.max_new_tokens},
        remarks=[
            f"reports: {batch_size} together, each of the {settings.decode.max_new_tokens} tokens it may have",
            "a token a report and pass: drafts that turn out right (decode.draft_rows) make it faster",
        ],
    )


def decoder_bytes(shape: DecoderSettings, quantize: Quantize | None, dtype: torch.dtype, device: torch.device) -> int:
    """Return the bytes that a decoder's weights take on a device; of quantised ones scales and filling count, too."""
    with on_meta_device():
        decoder = Decoder(shape)
        if quantize is not None:
            decoder.quantize(quantize, device)
    floats = sum(parameter.numel() * dtype.itemsize for parameter in decoder.parameters())
    return floats + sum(buffer.nbytes for buffer in decoder.buffers())


def encode_costs(model: ModelSettings, vqgan: Vqgan, examples: int) -> tuple[int, float]:
    """Return what turning pictures into codes takes: bytes besides the weights, and seconds a picture.

    Args:
        model: settings.
        vqgan: their image tokenizer, any weights, where it will run.
        examples: pictures that pass at once.
    """
    side, like = model.image.resolution_px, vqgan.quant_conv.weight
    limits = Limits(MEASURED_PARAMETERS, flop_rate(like.dtype, like.device) * PASS_S)
    flop = vqgan_flop(model.vqgan, side)[0]
    points = []
    for size in picture_sizes(side, examples=examples, flop=flop, step_px=model.vqgan.downsampling, limits=limits):
        shape = (size.examples, model.vqgan.image_channels, size.side_px, size.side_px)
        pixels = torch.rand(shape, generator=seeded_generator(0)).to(like) * 2 - 1
        with torch.inference_mode():
            with LiveBytes(vqgan) as live:
                vqgan.encode(pixels)
            taken = seconds(lambda: vqgan.encode(pixels), budget_s=1.0)  # noqa: B023 (called at once)
        points.append(Point({"pixels": size.pixels}, {"bytes": live.peak + pixels.nbytes, "s": taken}))
    found = extrapolate(points, {"pixels": examples * side**2})
    return round(found["bytes"]), found["s"] / examples


def _measure(
    model: ModelSettings, settings: GenerateReportSettings, size: DecoderSize, dtype: torch.dtype, device: torch.device
) -> dict[str, float]:
    """Return bytes besides the weights, seconds of the prompts and of a pass that gives each report a token."""
    cut = cut_decoder(model, size)
    decoder = Decoder(cut.decoder)
    init_decoder(decoder, seeded_generator(0))
    decoder = decoder.to(dtype)
    decoder = decoder.to(device) if settings.quantize is None else narrowed(decoder, settings.quantize, device)
    engine = report_engine(decoder, cut.vocabulary)
    prompts = [cut.vocabulary.report_prompt([row] * cut.vocabulary.tokens_per_image) for row in range(size.examples)]
    decode = dataclasses.replace(settings.decode, max_new_tokens=_NEW_TOKENS, min_new_tokens=_NEW_TOKENS)
    with LiveBytes(decoder) as live:
        engine.generate(prompts, decode)
    before = dataclasses.replace(engine.stats)
    engine.generate(prompts, decode)
    stats = engine.stats
    return {
        "bytes": float(live.peak) * size.shorter,
        "prompt_s": (stats.prefill_s - before.prefill_s) * size.shorter,
        "token_s": (stats.decode_s - before.decode_s) / (stats.num_passes - before.num_passes),
    }
