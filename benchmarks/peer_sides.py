"""One engine's time and choices over one text, in a process of its own: ``peers.py`` starts these, and compares.

    python benchmarks/peer_sides.py JOB.json

Every engine reads the same prompt and then the same ids, one at a time, and says after each which one it would choose:
so all do the same work, and a difference of one choice does not change what follows. One line of JSON on stdout.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

Found = dict[str, Any]
#: Reads ids behind those read so far, and returns the likeliest id after the last.
Step = Callable[[Sequence[int]], int]


def ours(job: Found, kind: str) -> Step:
    """Return our decoder, float32, with 8-bit or with 4-bit weights."""
    import torch

    from chexmix_cli.core.weights import open_weights

    torch.set_num_threads(job["threads"])
    quantize: Any = None if kind == "float32" else kind
    decoder = open_weights(job["folder"]).load_decoder("cpu", torch.float32, quantize=quantize)
    cache = decoder.new_cache(1, len(job["prompt"]) + job["new_tokens"])

    @torch.inference_mode()
    def step(ids: Sequence[int]) -> int:
        state_BTD = decoder(torch.tensor([list(ids)]), cache=cache)
        return int(decoder.logits(state_BTD[:, -1]).argmax())

    return step


def transformers(job: Found, kind: str) -> Step:
    """Return PhiForCausalLM in float32."""
    import torch
    from report_sides import load_phi

    from chexmix_cli.core.weights import open_weights

    torch.set_num_threads(job["threads"])
    return stepping(load_phi(open_weights(job["folder"]), torch.float32))


def openvino(job: Found, kind: str) -> Step:
    """Return the model that optimum-intel exported to ``openvino-KIND``."""
    from optimum.intel import OVModelForCausalLM

    config = {"INFERENCE_NUM_THREADS": str(job["threads"]), "PERFORMANCE_HINT": "LATENCY"}
    return stepping(OVModelForCausalLM.from_pretrained(Path(job["folder"], f"openvino-{kind}"), ov_config=config))


def stepping(model: Any) -> Step:
    """Return a model with transformers' interface as a step."""
    import torch

    past: Any = None
    length = 0

    @torch.inference_mode()
    def step(ids: Sequence[int]) -> int:
        nonlocal past, length
        length += len(ids)
        mask = torch.ones(1, length, dtype=torch.int64)
        out = model(input_ids=torch.tensor([list(ids)]), attention_mask=mask, past_key_values=past, use_cache=True)
        past = out.past_key_values
        return int(out.logits[0, -1].argmax())

    return step


def llama(job: Found, kind: str) -> Step:
    """Return llama.cpp with ``gguf/model-KIND.gguf``."""
    import ctypes

    import llama_cpp
    import numpy as np

    model = llama_cpp.Llama(
        str(Path(job["folder"], "gguf", f"model-{kind}.gguf")),
        n_ctx=len(job["prompt"]) + job["new_tokens"] + 8,
        n_threads=job["threads"],
        n_threads_batch=job["threads"],
        n_batch=512,
        verbose=False,
    )

    def step(ids: Sequence[int]) -> int:
        model.eval(list(ids))
        last = llama_cpp.llama_get_logits_ith(model._ctx.ctx, -1)
        pointer = ctypes.cast(last, ctypes.POINTER(ctypes.c_float))
        return int(np.ctypeslib.as_array(pointer, shape=(model.n_vocab(),)).argmax())

    return step


ENGINES: dict[str, Callable[[Found, str], Step]] = {
    "ours": ours,
    "transformers": transformers,
    "llama.cpp": llama,
    "openvino": openvino,
}


def measure(job: Found) -> Found:
    """Return seconds of loading, prompt and token, by the wall and of the processor; peak memory; the choices."""
    name, _, kind = job["engine"].partition(" ")
    clocks = (time.perf_counter, time.process_time)
    marks = [[clock() for clock in clocks]]
    step = ENGINES[name](job, kind)
    marks.append([clock() for clock in clocks])
    chosen = [step(job["prompt"])]
    marks.append([clock() for clock in clocks])
    for place in range(job["new_tokens"] - 1):
        # Without ids of another engine, its own.
        chosen.append(step([job["ids"][place] if job["ids"] else chosen[place]]))
    marks.append([clock() for clock in clocks])
    found: Found = {"engine": job["engine"], "chosen": chosen}
    found["peak_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    for number, part in enumerate(("load", "prompt", "token")):
        count = job["new_tokens"] - 1 if part == "token" else 1
        for clock, unit in enumerate(("s", "cpu_s")):
            found[f"{part}_{unit}"] = (marks[number + 1][clock] - marks[number][clock]) / count
    return found


if __name__ == "__main__":
    asked = json.loads(Path(sys.argv[1]).read_text())
    os.environ["OMP_NUM_THREADS"] = str(asked["threads"])
    sys.stdout.write(json.dumps(measure(asked)) + "\n")
