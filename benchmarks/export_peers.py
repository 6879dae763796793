"""Whether other programs write the ids that chexmix writes, from exported weights: real films, greedy reports.

    python benchmarks/export_peers.py FILMS --weights WEIGHTS --films 200

Each way of the table reads the same prompts. Said of each: reports that are the same id for id as chexmix' in float32,
ids in all reports, and the ids before the first that differs, as a share. llama.cpp keeps keys and values in float16
unless told otherwise; the ways named "cache F32" tell it. Needs transformers and llama-cpp-python (`make peers`). One
JSON record on stdout.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

import torch

import chexmix_cli as chexmix
from chexmix_cli.core.infer.reports.engine import report_engine
from chexmix_cli.core.settings.inference import DecodeSettings
from chexmix_cli.core.vocab import Vocabulary
from chexmix_cli.core.weights import open_weights
from chexmix_cli.core.weights.export import export_gguf, export_hf

Write = Callable[[list[int]], list[int]]


def main() -> None:
    """Measure, and print the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of films")
    parser.add_argument("--weights", type=Path, required=True, help="of a decoder that a Phi can be")
    parser.add_argument("--films", type=int, default=200)
    options = parser.parse_args()
    weights = open_weights(options.weights)
    vocabulary = weights.settings.vocabulary
    paths = sorted(path for path in options.folder.iterdir() if path.is_file())
    # Spread over the folder, where like films often stand together.
    paths = paths[:: max(1, len(paths) // options.films)][: options.films]
    found = chexmix.load(options.weights).tokenize_many(paths)
    prompts = [vocabulary.report_prompt(one.codes) for one in found if not isinstance(one, chexmix.Failure)]
    settings = DecodeSettings(vocabulary="all", min_new_tokens=0)
    engine = report_engine(weights.load_decoder("cpu", torch.float32), vocabulary)
    ours = [ended(engine.generate([prompt], settings)[0].token_ids, vocabulary) for prompt in prompts]
    with tempfile.TemporaryDirectory() as folder:
        ways = {
            name: measured(write, prompts, ours, vocabulary)
            for name, write in writers(options.weights, Path(folder), settings.max_new_tokens)
        }
    record = {"films": len(prompts), "distinct_reports": len({tuple(ids) for ids in ours}), "ways": ways}
    print(json.dumps(record, indent=2))


def writers(source: Path, folder: Path, count: int) -> Sequence[tuple[str, Write]]:
    """Return every way of writing, by name."""
    hf = export_hf(source, folder / "hf", dtype=torch.float32)[0].parent
    float32, *_ = export_gguf(source, folder, dtype=torch.float32)
    bfloat16, *_ = export_gguf(source, folder, dtype=torch.bfloat16)
    q8, *_ = export_gguf(source, folder, quantize="q8_0")
    return (
        ("transformers, float32", transformers_writer(hf, count)),
        ("llama.cpp, F32, cache F32", llama_writer(float32, count, exact=True)),
        ("llama.cpp, F32", llama_writer(float32, count, exact=False)),
        ("llama.cpp, BF16, cache F32", llama_writer(bfloat16, count, exact=True)),
        ("llama.cpp, Q8_0, cache F32", llama_writer(q8, count, exact=True)),
        ("llama.cpp, Q8_0", llama_writer(q8, count, exact=False)),
    )


def transformers_writer(folder: Path, count: int) -> Write:
    """Return what writes with transformers."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder)

    def write(prompt: list[int]) -> list[int]:
        made = model.generate(torch.tensor([prompt]), max_new_tokens=count, min_new_tokens=0)
        new: list[int] = made[0, len(prompt) :].tolist()
        return new

    return write


def llama_writer(path: Path, count: int, *, exact: bool) -> Write:
    """Return what writes with llama.cpp; ``exact`` keeps keys and values in float32."""
    import llama_cpp

    kept: dict[str, Any] = dict.fromkeys(("type_k", "type_v"), llama_cpp.GGML_TYPE_F32) if exact else {}
    threads = torch.get_num_threads()
    model = llama_cpp.Llama(
        str(path), n_ctx=0, n_threads=threads, n_threads_batch=threads, verbose=False, logits_all=False, **kept
    )
    end = llama_cpp.llama_model_get_vocab(model.model)

    def write(prompt: list[int]) -> list[int]:
        model.reset()
        new: list[int] = []
        for token_id in model.generate(prompt, temp=0.0):
            new.append(token_id)
            if llama_cpp.llama_vocab_is_eog(end, token_id) or len(new) == count:
                break
        return new

    return write


def measured(
    write: Write, prompts: Sequence[list[int]], ours: Sequence[list[int]], vocabulary: Vocabulary
) -> dict[str, Any]:
    """Return how near to ``ours`` one way's reports are."""
    start = time.perf_counter()
    theirs = [ended(write(prompt), vocabulary) for prompt in prompts]
    seconds = time.perf_counter() - start
    pairs = [list(zip(one, other, strict=False)) for one, other in zip(ours, theirs, strict=True)]
    agreed = sum(len(list(takewhile(lambda pair: pair[0] == pair[1], pair))) for pair in pairs)
    total = sum(map(len, ours))
    print(f"{seconds:.0f} s", file=sys.stderr)
    return {
        "same_reports": sum(one == other for one, other in zip(ours, theirs, strict=True)),
        "ids": total,
        "ids_before_parting": agreed / total,
    }


def ended(token_ids: Sequence[int], vocabulary: Vocabulary) -> list[int]:
    """Return new ids up to the first that ends a report, it included."""
    stop = next((n for n, one in enumerate(token_ids) if one in (vocabulary.begin_text, vocabulary.begin_image)), None)
    return list(token_ids if stop is None else token_ids[: stop + 1])


if __name__ == "__main__":
    main()
