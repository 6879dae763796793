"""Greedy reports on a GPU by several engines: seconds of the prompts, seconds a token, agreement of the ids, memory.

    python benchmarks/gpu_decode.py FOLDER [--device cuda:0] [--rounds 3] [-o FILE]

The weights in FOLDER, which have to be a PhiForCausalLM's; where it has none, random numbers in the released shape are
written there. The same prompts of an image's codes, the same number of new tokens. Each side is a process of its own;
they take turns, every second round backwards:

- ``ours``: the engine that ``generate-report`` uses, its passes recorded as CUDA graphs;
- ``int8``, ``int4``: the same with weights of 8 and 4 bits;
- ``transformers``: PhiForCausalLM with SDPA and a dynamic cache, as the released pipeline runs it;
- ``compiled``: the same with a static cache under ``torch.compile(mode="reduce-overhead")``, gpt-fast's form;
- ``vllm``: where it is installed, by token ids.

A first report of each side is not counted: it compiles and records. One JSON line a side and batch size goes to stdout
or ``-o``: medians over the rounds, ``token_ratio`` and ``prompt_ratio`` to ours paired within a round (above 1: ours is
faster), and the share of ids equal to those of ``transformers`` before the first that differs.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from report_sides import load_phi, prompt_of
from write_random import write_random

from chexmix_cli.core.infer.reports.engine import report_engine
from chexmix_cli.core.settings.inference import DecodeSettings, Quantize
from chexmix_cli.core.weights import WeightsDir, open_weights

Found = dict[str, Any]
#: Prompts to ids: fills in ``prompt_s`` and ``token_s`` beside them.
Generate = Callable[[list[list[int]], int], Found]


def wait(device: torch.device) -> None:
    """Wait for the device, so that a clock read next tells of its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def ours(
    weights: WeightsDir, device: torch.device, dtype: torch.dtype, *, quantize: Quantize | None = None
) -> Generate:
    """Return our engine."""
    decoder = weights.load_decoder(device, dtype, quantize=quantize)
    engine = report_engine(decoder, weights.settings.vocabulary)

    def generate(prompts: list[list[int]], count: int) -> Found:
        settings = DecodeSettings(vocabulary="all", max_new_tokens=count, min_new_tokens=count)
        before = engine.stats.prefill_s, engine.stats.decode_s
        made = engine.generate(prompts, settings)
        prompt_s, decode_s = engine.stats.prefill_s - before[0], engine.stats.decode_s - before[1]
        return {"prompt_s": prompt_s, "token_s": decode_s / (count - 1), "ids": [one.token_ids for one in made]}

    return generate


def transformers(weights: WeightsDir, device: torch.device, dtype: torch.dtype, *, compiled: bool = False) -> Generate:
    """Return PhiForCausalLM; ``compiled`` with a static cache and a compiled pass."""
    phi = load_phi(weights, dtype).to(device)
    # Generation compiles a static cache's decoding by itself on a GPU, by this configuration.
    more: Found = {"cache_implementation": "static"} if compiled else {"cache_implementation": "dynamic"}
    if compiled:
        phi.forward = torch.compile(phi.forward, mode="reduce-overhead")
    end = weights.settings.vocabulary.begin_text

    @torch.inference_mode()
    def generate(prompts: list[list[int]], count: int) -> Found:
        ids_BT = torch.tensor(prompts, device=device)
        times = []
        for tokens in (1, count):
            wait(device)
            started = time.perf_counter()
            made = phi.generate(
                ids_BT,
                attention_mask=torch.ones_like(ids_BT),
                min_new_tokens=tokens,
                max_new_tokens=tokens,
                do_sample=False,
                suppress_tokens=[end],
                **more,
            )
            wait(device)
            times.append(time.perf_counter() - started)
        ids = made[:, ids_BT.shape[1] :].tolist()
        return {"prompt_s": times[0], "token_s": (times[1] - times[0]) / (count - 1), "ids": ids}

    return generate


def vllm(weights: WeightsDir, device: torch.device, dtype: torch.dtype) -> Generate:
    """Return vLLM's engine on the weights' folder, which is a PhiForCausalLM's."""
    from vllm import LLM, SamplingParams

    engine = LLM(
        model=str(weights.path),
        skip_tokenizer_init=True,
        dtype=str(dtype).removeprefix("torch."),
        enable_prefix_caching=False,
        max_model_len=weights.settings.decoder.max_positions,
    )
    end = weights.settings.vocabulary.begin_text

    def generate(prompts: list[list[int]], count: int) -> Found:
        times = []
        asked = [{"prompt_token_ids": prompt} for prompt in prompts]
        for tokens in (1, count):
            settings = SamplingParams(
                temperature=0.0, max_tokens=tokens, ignore_eos=True, logit_bias={end: -100.0}, detokenize=False
            )
            started = time.perf_counter()
            made = engine.generate(asked, settings, use_tqdm=False)
            times.append(time.perf_counter() - started)
        ids = [list(one.outputs[0].token_ids) for one in made]
        return {"prompt_s": times[0], "token_s": (times[1] - times[0]) / (count - 1), "ids": ids}

    return generate


SIDES: dict[str, Callable[[WeightsDir, torch.device, torch.dtype], Generate]] = {
    "ours": ours,
    "int8": lambda weights, device, dtype: ours(weights, device, dtype, quantize="int8"),
    "int4": lambda weights, device, dtype: ours(weights, device, dtype, quantize="int4"),
    "transformers": transformers,
    "compiled": lambda weights, device, dtype: transformers(weights, device, dtype, compiled=True),
    "vllm": vllm,
}


def one_side(job: Found) -> Found:
    """Return one side's figures for every batch size, in this process."""
    weights, device = open_weights(job["weights"]), torch.device(job["device"])
    generate = SIDES[job["side"]](weights, device, getattr(torch, job["dtype"]))
    vocabulary, found = weights.settings.vocabulary, {}
    for rows in job["batches"]:
        prompts = [prompt_of(vocabulary, seed) for seed in range(rows)]
        generate(prompts, job["new_tokens"])
        found[str(rows)] = generate(prompts, job["new_tokens"])
    peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0
    return {"batches": found, "peak_bytes": peak}


def equal_share(ids: list[list[int]], others: list[list[int]]) -> float:
    """Return the share of ids that come before the first that differs, over all reports."""
    same = 0
    for one, other in zip(ids, others, strict=True):
        differs = (place for place, pair in enumerate(zip(one, other, strict=True)) if pair[0] != pair[1])
        same += next(differs, len(one))
    return same / sum(map(len, ids))


def lines(rounds: list[Found], batches: list[int]) -> list[Found]:
    """Return a line a side and batch size, from all rounds."""
    result = []
    for rows in map(str, batches):
        for side in rounds[0]:
            mine = [found[side]["batches"][rows] for found in rounds]
            own = [found["ours"]["batches"][rows] for found in rounds]
            line: Found = {"side": side, "reports": int(rows)}
            for part in ("prompt_s", "token_s"):
                line[part] = statistics.median(one[part] for one in mine)
                pairs = zip(mine, own, strict=True)
                line[f"{part[:-2]}_ratio"] = statistics.median(one[part] / other[part] for one, other in pairs)
            if "transformers" in rounds[0]:
                theirs = rounds[0]["transformers"]["batches"][rows]["ids"]
                line["ids_as_transformers"] = equal_share(mine[0]["ids"], theirs)
            line["peak_bytes"] = max(found[side]["peak_bytes"] for found in rounds)
            result.append(line)
    return result


def asked(words: list[str] | None = None) -> argparse.Namespace:
    """Return what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of the weights")
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--sides", nargs="+", choices=list(SIDES), default=list(SIDES))
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--new-tokens", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("-o", "--out", type=Path)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    return parser.parse_args(words)


def job_of(options: argparse.Namespace, weights: Path) -> Found:
    """Return what each side is told, but for its name."""
    named = {name: getattr(options, name) for name in ("device", "dtype", "batches", "new_tokens")}
    return {"weights": str(weights), **named}


def main() -> None:
    """Measure all sides in turn, and write the lines."""
    options = asked()
    if options.one:
        sys.stdout.write(json.dumps(one_side(json.loads(options.one))) + "\n")
        return
    sides = [side for side in options.sides if side != "vllm" or find_spec("vllm") is not None]
    job = job_of(options, write_random(options.folder))
    rounds = []
    for number in range(options.rounds):
        found = {}
        for side in sides if number % 2 == 0 else reversed(sides):
            told = json.dumps({**job, "side": side})
            command = [sys.executable, __file__, str(options.folder), "--one", told]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
            if done.returncode != 0:
                raise SystemExit(f"{side} ended with {done.returncode}: what it said is above")
            found[side] = json.loads(done.stdout.splitlines()[-1])
            print(f"round {number + 1}: {side} done", file=sys.stderr)
        rounds.append({side: found[side] for side in sides})
    text = "".join(json.dumps(line) + "\n" for line in lines(rounds, options.batches))
    if options.out is None:
        sys.stdout.write(text)
    else:
        options.out.write_text(text)


if __name__ == "__main__":
    main()
