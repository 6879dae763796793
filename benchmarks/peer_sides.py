"""One engine's time and choices over one text, in a process of its own: ``peers.py`` starts these, and compares.

    python benchmarks/peer_sides.py JOB.json

Every engine reads the same prompts, as many together as the job has, and then the same ids, one a report at a time, and
says after each which one it would choose: so all do the same work, and a difference of one choice does not change what
follows. One line of JSON on stdout.
"""

from __future__ import annotations

import json
import logging
import os
import resource
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

Found = dict[str, Any]
Rows = Sequence[Sequence[int]]
#: Reads ids behind those read so far, as many of each report, and returns the likeliest id after the last of each.
Step = Callable[[Rows], list[int]]


def ours(job: Found, kind: str) -> Step:
    """Return our decoder, float32, with 8-bit or with 4-bit weights."""
    import torch

    from chexmix_cli.core.infer.decoding.batch import Batch
    from chexmix_cli.core.weights import open_weights

    torch.set_num_threads(job["threads"])
    quantize: Any = None if kind == "float32" else kind
    weights = open_weights(job["folder"])
    decoder = weights.load_decoder("cpu", torch.float32, quantize=quantize)
    pad = weights.settings.vocabulary.pad
    batch: Batch | None = None

    @torch.inference_mode()
    def step(ids: Rows) -> list[int]:
        nonlocal batch
        if batch is None:
            batch = Batch(decoder, ids, max_new_tokens=job["new_tokens"], pad=pad)
            last_B1D = batch.read_prompts()[0]
        else:
            last_B1D = batch.read(torch.tensor(ids))
        found: list[int] = decoder.logits(last_B1D[:, 0]).argmax(dim=-1).tolist()
        return found

    return step


def transformers(job: Found, kind: str) -> Step:
    """Return PhiForCausalLM in float32."""
    import torch
    from report_sides import load_phi

    from chexmix_cli.core.weights import open_weights

    torch.set_num_threads(job["threads"])
    return stepping(load_phi(open_weights(job["folder"]), torch.float32), logits_to_keep=1)


def openvino(job: Found, kind: str) -> Step:
    """Return the model that optimum-intel exported to ``openvino-KIND``."""
    from optimum.intel import OVModelForCausalLM

    config = {"INFERENCE_NUM_THREADS": str(job["threads"]), "PERFORMANCE_HINT": "LATENCY"}
    return stepping(OVModelForCausalLM.from_pretrained(Path(job["folder"], f"openvino-{kind}"), ov_config=config))


def stepping(model: Any, **asked: Any) -> Step:
    """Return a model with transformers' interface, and what else it is asked for, as a step."""
    import torch

    past: Any = None
    length = 0

    @torch.inference_mode()
    def step(ids: Rows) -> list[int]:
        nonlocal past, length
        length += len(ids[0])
        mask = torch.ones(len(ids), length, dtype=torch.int64)
        out = model(input_ids=torch.tensor(ids), attention_mask=mask, past_key_values=past, use_cache=True, **asked)
        past = out.past_key_values
        found: list[int] = out.logits[:, -1].argmax(dim=-1).tolist()
        return found

    return step


def onnxruntime(job: Found, kind: str) -> Step:
    """Return the model that onnxruntime-genai's builder wrote to ``onnxruntime-KIND``.

    Several reports together go on with what it chooses itself: only a single one can be given ids.
    """
    import numpy as np
    import onnxruntime_genai as genai

    config = genai.Config(str(Path(job["folder"], f"onnxruntime-{kind}")))
    config.overlay(json.dumps({"model": {"decoder": {"session_options": {"intra_op_num_threads": job["threads"]}}}}))
    model = genai.Model(config)
    parameters = genai.GeneratorParams(model)
    count = len(job["prompts"])
    length = len(job["prompts"][0]) + job["new_tokens"]
    parameters.set_search_options(do_sample=False, batch_size=count, min_length=length, max_length=length)
    generator = genai.Generator(model, parameters)
    is_begun = False

    def step(ids: Rows) -> list[int]:
        nonlocal is_begun
        if count == 1 or not is_begun:
            generator.append_tokens(np.array(ids if count > 1 else ids[0], dtype=np.int32))
        else:
            generator.generate_next_token()
        is_begun = True
        logits_BTV = np.asarray(generator.get_logits()).reshape(count, -1, job["vocabulary"])
        return [int(one) for one in logits_BTV[:, -1].argmax(axis=-1)]

    return step


def llama(job: Found, kind: str) -> Step:
    """Return llama.cpp with ``gguf/model-KIND.gguf``; reports are sequences of one context."""
    import ctypes

    import llama_cpp
    import numpy as np

    logging.getLogger("llama-cpp-python").setLevel(logging.ERROR)
    llama_cpp.llama_backend_init()
    file = Path(job["folder"], "gguf", f"model-{kind}.gguf")
    model = llama_cpp.llama_model_load_from_file(str(file).encode(), llama_cpp.llama_model_default_params())
    count, at_once = len(job["prompts"]), 512
    parameters = llama_cpp.llama_context_default_params()
    parameters.n_ctx = count * (len(job["prompts"][0]) + job["new_tokens"] + 8)
    parameters.n_batch = parameters.n_ubatch = at_once
    parameters.n_seq_max, parameters.n_threads, parameters.n_threads_batch = count, job["threads"], job["threads"]
    context = llama_cpp.llama_init_from_model(model, parameters)
    num_ids = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
    batch = llama_cpp.llama_batch_init(at_once, 0, 1)
    read = 0

    def decode(tokens: Sequence[tuple[int, int, int, bool]]) -> dict[int, int]:
        """Read (id, position, sequence, whether asked) and return what is likeliest behind those asked for."""
        batch.n_tokens = len(tokens)
        for place, (token_id, position, sequence, is_asked) in enumerate(tokens):
            batch.token[place], batch.pos[place], batch.logits[place] = token_id, position, is_asked
            batch.n_seq_id[place], batch.seq_id[place][0] = 1, sequence
        if llama_cpp.llama_decode(context, batch) != 0:
            raise SystemExit(f"llama.cpp read no batch of {len(tokens)} tokens")
        found = {}
        for place, (_, _, sequence, is_asked) in enumerate(tokens):
            if is_asked:
                values = llama_cpp.llama_get_logits_ith(context, place)
                pointer = ctypes.cast(values, ctypes.POINTER(ctypes.c_float))
                found[sequence] = int(np.ctypeslib.as_array(pointer, shape=(num_ids,)).argmax())
        return found

    def step(ids: Rows) -> list[int]:
        nonlocal read
        length, found = len(ids[0]), dict[int, int]()
        tokens = [
            (token_id, read + place, sequence, place == length - 1)
            for sequence, own in enumerate(ids)
            for place, token_id in enumerate(own)
        ]
        for start in range(0, len(tokens), at_once):
            found |= decode(tokens[start : start + at_once])
        read += length
        return [found[sequence] for sequence in range(len(ids))]

    return step


ENGINES: dict[str, Callable[[Found, str], Step]] = {
    "ours": ours,
    "transformers": transformers,
    "llama.cpp": llama,
    "openvino": openvino,
    "onnxruntime": onnxruntime,
}


def measure(job: Found) -> Found:
    """Return seconds of loading, prompts and a token of each report, by the wall and of the processor; memory; choices.

    ``chosen`` has the choices of every report, in turn.
    """
    name, _, kind = job["engine"].partition(" ")
    clocks = (time.perf_counter, time.process_time)
    marks = [[clock() for clock in clocks]]
    step = ENGINES[name](job, kind)
    marks.append([clock() for clock in clocks])
    chosen = [step(job["prompts"])]
    marks.append([clock() for clock in clocks])
    for place in range(job["new_tokens"] - 1):
        # Without ids of another engine, its own.
        ids = [own[place] for own in job["ids"]] if job["ids"] else chosen[place]
        chosen.append(step([[token_id] for token_id in ids]))
    marks.append([clock() for clock in clocks])
    found: Found = {"engine": job["engine"], "chosen": [list(own) for own in zip(*chosen, strict=True)]}
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
