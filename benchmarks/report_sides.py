"""One side of one measurement of a report, in a process of its own: ``run.py`` starts these, and compares.

    python benchmarks/report_sides.py '{"kind": "report", "side": "ours", "folder": ..., "dtype": "float32", ...}'

Kinds: ``report`` (a greedy report, ids and times), ``load`` (up to the first token), ``machine`` (bandwidth and rate of
products), ``profile`` (where our time goes), ``growth`` (cost by size), ``acceptance`` (drafts of the embedded model on
real films). One line of JSON on stdout.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from chexmix_cli.core.infer.decoding.drafts import OwnText
from chexmix_cli.core.infer.decoding.engine import Engine
from chexmix_cli.core.infer.image_tokenizer import ImageTokenizer
from chexmix_cli.core.infer.reports.engine import report_engine
from chexmix_cli.core.models.vqgan import Vqgan
from chexmix_cli.core.rates import flop_rate
from chexmix_cli.core.runtime import resident_memory
from chexmix_cli.core.settings.inference import DecodeSettings
from chexmix_cli.core.settings.model import DecoderSettings
from chexmix_cli.core.vocab import Vocabulary
from chexmix_cli.core.weights import WeightsDir, open_weights

Found = dict[str, Any]

#: Most likely ids kept of each step of the other side: a differing choice is looked up there.
_KEPT_LOGITS = 8
#: Numbers read to measure bandwidth: far beyond any cache.
_BANDWIDTH_NUMBERS = 1 << 28


class Replay:
    """Drafts as good as those of realistic text, for a model whose own text is not: what it will say, and then not.

    Args:
        prompt_length: ids in front of the report.
        ids: what the model says.
        accepted, drafted: ids a pass, on average, that are right and that are drafted.
    """

    def __init__(self, prompt_length: int, ids: Sequence[int], *, accepted: float, drafted: float) -> None:
        self._start, self._ids = prompt_length, ids
        self._a_pass = (accepted, drafted)
        self._owed = [0.0, 0.0]

    def draft(self, token_ids: Sequence[int], count: int) -> Sequence[int]:
        """Return the next ids, right ones first."""
        self._owed = [owed + rate for owed, rate in zip(self._owed, self._a_pass, strict=True)]
        offered = min(int(self._owed[1]), count)
        right = min(int(self._owed[0]), offered)
        self._owed = [self._owed[0] - right, self._owed[1] - offered]
        done = len(token_ids) - self._start
        coming = list(self._ids[done : done + offered])
        return [*coming[:right], *(one + 1 if one % 2 == 0 else one - 1 for one in coming[right:])]


def prompt_of(vocabulary: Vocabulary, seed: int = 0) -> list[int]:
    """Return a report prompt behind random codes."""
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(vocabulary.num_codes, (vocabulary.tokens_per_image,), generator=generator)
    return vocabulary.report_prompt(codes.tolist())


def phi_config(settings: DecoderSettings, num_rows: int) -> Any:
    """Return transformers' configuration of a decoder."""
    from transformers import PhiConfig

    return PhiConfig(
        vocab_size=num_rows,
        hidden_size=settings.hidden_size,
        intermediate_size=settings.mlp_size,
        num_hidden_layers=settings.num_layers,
        num_attention_heads=settings.num_heads,
        hidden_act="gelu_new",
        max_position_embeddings=settings.max_positions,
        layer_norm_eps=settings.norm_eps,
        partial_rotary_factor=(settings.rotary_size + 0.5) / settings.head_size,
        rope_theta=settings.rope_theta,
        bos_token_id=0,
        eos_token_id=None,
        pad_token_id=0,
        tie_word_embeddings=False,
        attn_implementation="sdpa",
    )


def load_phi(weights: WeightsDir, dtype: torch.dtype) -> Any:
    """Return PhiForCausalLM as the released pipeline makes it: built, its embeddings grown, its state loaded."""
    from safetensors.torch import load_file
    from transformers import PhiForCausalLM

    settings, vocabulary = weights.settings.decoder, weights.settings.vocabulary
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        phi = PhiForCausalLM(phi_config(settings, vocabulary.num_text))
        phi.resize_token_embeddings(settings.num_rows, mean_resizing=False)
    finally:
        torch.set_default_dtype(before)
    assert weights.decoder_file is not None
    phi.load_state_dict(load_file(weights.decoder_file))
    return phi.to(dtype).eval()


class Stamps:
    """Takes the time of each token of transformers' generation: the prompt comes first, then token by token."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def put(self, value: Any) -> None:
        self.times.append(time.perf_counter())

    def end(self) -> None:
        pass


@torch.inference_mode()
def report_of_phi(phi: Any, prompt: list[int], new_tokens: int, end: int) -> Found:
    """Return a greedy report by transformers, and the likeliest ids of every step."""
    stamps = Stamps()
    made = phi.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.int64),
        max_new_tokens=new_tokens,
        do_sample=False,
        suppress_tokens=[end],
        streamer=stamps,
        output_logits=True,
        return_dict_in_generate=True,
    )
    likeliest = []
    for logits_1V in made.logits:
        logits_V = logits_1V[0].float().index_fill(0, torch.tensor([end]), -torch.inf)
        best = logits_V.topk(_KEPT_LOGITS)
        likeliest.append([best.indices.tolist(), [round(value, 5) for value in best.values.tolist()]])
    ids = made.sequences[0, len(prompt) :].tolist()
    started, first, last = stamps.times[0], stamps.times[1], stamps.times[-1]
    return {"prefill_s": first - started, "decode_s": last - first, "ids": ids, "likeliest": likeliest}


def report_of_ours(job: Found, weights: WeightsDir, engine: Engine, prompt: list[int]) -> Found:
    """Return a greedy report by our engine."""
    count = job["new_tokens"]
    settings = DecodeSettings(vocabulary="all", max_new_tokens=count, min_new_tokens=count)
    drafters: dict[str, Callable[[], Any]] = {
        "none": lambda: None,
        "own": OwnText,
        "replay": lambda: Replay(len(prompt), job["ids"], accepted=job["accepted"], drafted=job["drafted"]),
    }
    drafter = drafters[job["drafts"]]()
    made = engine.generate([prompt], settings, drafter=drafter)[0]
    stats = engine.stats
    return {
        "prefill_s": stats.prefill_s,
        "decode_s": stats.decode_s,
        "ids": made.token_ids,
        "passes": stats.num_passes,
        "tokens_per_pass": stats.num_decoded_tokens / max(1, stats.num_passes),
    }


def measure_report(job: Found) -> Found:
    """Return times, ids and memory of one side's report; loading is apart."""
    weights = open_weights(job["folder"])
    vocabulary, dtype = weights.settings.vocabulary, getattr(torch, job["dtype"])
    prompt = prompt_of(vocabulary)[-job["prompt_tokens"] :]
    if job["side"] != "ours":
        import_module("transformers.models.phi.modeling_phi")  # once a process, and no part of loading a model
    before, started = resident_memory(), time.perf_counter()
    if job["side"] == "ours":
        decoder = weights.load_decoder("cpu", dtype, quantize=job["quantize"])
        loaded_s, tensors = time.perf_counter() - started, decoder.state_dict()
        found = report_of_ours(job, weights, report_engine(decoder, vocabulary), prompt)
    else:
        phi = load_phi(weights, dtype)
        loaded_s, tensors = time.perf_counter() - started, phi.state_dict()
        found = report_of_phi(phi, prompt, job["new_tokens"], vocabulary.begin_text)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    weights_bytes = sum(value.nbytes for value in tensors.values())
    first_token_s = loaded_s + found["prefill_s"]
    return {**found, "load_s": first_token_s, "weights_bytes": weights_bytes, "peak_bytes": peak - before}


def measure_machine(job: Found) -> Found:
    """Return bytes a second of reading weights and operations a second of products, by dtype."""
    found: Found = {}
    for name in ("float32", "bfloat16"):
        dtype = getattr(torch, name)
        matrix = torch.ones(_BANDWIDTH_NUMBERS // 4096, 4096, dtype=dtype)
        x = torch.ones(4096, dtype=dtype)
        found[f"{name}_bytes_per_s"] = matrix.nbytes / _best(lambda matrix=matrix, x=x: matrix @ x, 3)
        found[f"{name}_flops"] = flop_rate(dtype, torch.device("cpu"))
    whole = torch.ones(_BANDWIDTH_NUMBERS)
    # What the memory gives: a sum does nothing else. The best of all figures is the floor's.
    found["sum_bytes_per_s"] = whole.nbytes / _best(whole.sum, 3)
    return found


def _best(call: Callable[[], Any], rounds: int) -> float:
    times = []
    for _ in range(rounds):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return min(times)


def measure_profile(job: Found) -> Found:
    """Return the operations that our side spends most of its own time in, prompt and tokens apart."""
    from torch.profiler import ProfilerActivity, profile

    weights = open_weights(job["folder"])
    decoder = weights.load_decoder("cpu", getattr(torch, job["dtype"]), quantize=job["quantize"])
    prompt = prompt_of(weights.settings.vocabulary)
    found: Found = {}
    with torch.inference_mode():
        cache = decoder.new_cache(1, len(prompt) + 8)
        parts = {"prompt": [prompt], "tokens": [[prompt[-1]]] * 8}
        for name, passes in parts.items():
            with profile(activities=[ProfilerActivity.CPU]) as watched:
                for ids in passes:
                    decoder.logits(decoder(torch.tensor([ids]), cache=cache)[:, -1])
            events = watched.key_averages()
            whole = sum(event.self_cpu_time_total for event in events)
            top = sorted(events, key=lambda event: -event.self_cpu_time_total)[:6]
            found[name] = {event.key: round(event.self_cpu_time_total / whole, 3) for event in top}
    return found


def measure_growth(job: Found) -> Found:
    """Return seconds of the prompt's pass and of a token by prompt length and by rows together, and of images."""
    weights = open_weights(job["folder"])
    vocabulary = weights.settings.vocabulary
    decoder = weights.load_decoder("cpu", getattr(torch, job["dtype"]), quantize=None)
    longest = decoder.settings.max_positions - job["new_tokens"]
    ids = prompt_of(vocabulary) * (longest // vocabulary.prompt_length + 1)
    settings = DecodeSettings(vocabulary="all", max_new_tokens=job["new_tokens"], min_new_tokens=job["new_tokens"])

    def cost(prompts: list[list[int]]) -> Found:
        points = []
        for _ in range(job["rounds"]):
            engine = report_engine(decoder, vocabulary)
            engine.generate(prompts, settings)
            points.append((engine.stats.prefill_s, 1 / engine.stats.decode_passes_per_s))
        return {"prefill_s": min(point[0] for point in points), "token_s": min(point[1] for point in points)}

    lengths = [length for length in (32, 64, 128, 256, 512, 1024, 2048) if length <= longest]
    cost([ids[:32]])
    torch.manual_seed(0)
    tokenizer = ImageTokenizer(Vqgan(weights.settings.vqgan).eval(), weights.settings, batch_size=4)
    side = weights.settings.image.resolution_px
    pixels = torch.rand(_rows()[-2], weights.settings.vqgan.image_channels, side, side) * 2 - 1
    return {
        "images": [
            {"size": count, "encode_s": _best(lambda count=count: tokenizer.encode(pixels[:count]), job["rounds"])}
            for count in _rows()[:-1]
        ],
        "prompt": [{"size": length, **cost([ids[:length]])} for length in lengths],
        "batch": [{"size": rows, **cost([prompt_of(vocabulary, row) for row in range(rows)])} for rows in _rows()],
    }


def _rows() -> tuple[int, ...]:
    return (1, 2, 4, 8, 16)


def measure_acceptance(job: Found) -> Found:
    """Return how drafts fare in the embedded model's reports on films of a manifest, as ``generate-report`` writes."""
    from chexmix_cli.core.data.manifest import read_manifest
    from chexmix_cli.core.infer.manifest_images import encode_rows
    from chexmix_cli.library.opened import open_model

    model = open_model(None, device="cpu", dtype="float32")
    rows = [row for row in read_manifest(Path(job["manifest"])) if row.split == "val"][: job["films"]]
    codes = encode_rows(rows, model.images, model.preset, model.input, progress=lambda done, of: None).codes_NP
    settings = DecodeSettings()
    drafter = model.drafter(settings)
    for film in codes.tolist():
        model.reports.write([film], settings, drafter=drafter)
    stats = model.reports.engine.stats
    assert stats.num_drafted, "no draft was made: nothing to replay"
    accepted, drafted = stats.num_accepted / stats.num_passes, stats.num_drafted / stats.num_passes
    return {"films": len(codes), "accepted": accepted, "drafted": drafted}


KINDS = {
    "report": measure_report,
    "load": measure_report,
    "machine": measure_machine,
    "profile": measure_profile,
    "growth": measure_growth,
    "acceptance": measure_acceptance,
}

if __name__ == "__main__":
    asked = json.loads(sys.argv[1])
    sys.stdout.write(json.dumps(KINDS[asked["kind"]](asked)) + "\n")
