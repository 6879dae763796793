"""Drafts of reports: how many are right, how many passes they save, and the time, in pairs of one run.

    python tools/make_mini_manifest.py ../shared/data/radiographs -o manifest.jsonl
    OMP_NUM_THREADS=1 python benchmarks/speculation.py manifest.jsonl --images 689 --timed 24 --rounds 3

Reports of the val rows of a manifest, with the weights' own draft index. Acceptance and passes are counted over all
images; the time is that of decoding (behind the prompt) of the timed ones: without drafts, with eight positions a pass
and with as many as pay off in turn, medians of the paired ratios. Ids that differ are counted, and whether rounding
explains them. ``--quantize`` takes the decoder in 8 or 4 bits.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import platform
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from chexmix_cli.core.data.manifest import read_manifest
from chexmix_cli.core.data.presets import resolve_preset
from chexmix_cli.core.infer.decoding.agreement import difference
from chexmix_cli.core.infer.decoding.draft_length import pass_costs
from chexmix_cli.core.infer.decoding.drafts import Drafter, OwnText, Together
from chexmix_cli.core.infer.decoding.engine import Engine, Generation
from chexmix_cli.core.infer.image_tokenizer import ImageTokenizer
from chexmix_cli.core.infer.manifest_images import encode_rows
from chexmix_cli.core.infer.reports.engine import report_engine
from chexmix_cli.core.settings.inference import DecodeSettings, InputSettings
from chexmix_cli.core.weights import WeightsDir, open_weights


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--weights", default=None)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--quantize", choices=("int8", "int4"), default=None)
    parser.add_argument("--images", type=int, default=40, help="val images, evenly from all")
    parser.add_argument("--timed", type=int, default=12, help="of these, timed")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(arguments)
    weights = open_weights(options.weights)
    decoder = weights.load_decoder("cpu", getattr(torch, options.dtype), quantize=options.quantize)
    prompts = read_prompts(weights, options.manifest, options.images)
    index = weights.load_drafts()
    assert index is not None, "the weights have no drafts.safetensors"
    both = Together(index, OwnText())
    ways: list[tuple[str, Drafter, int | None, int]] = [("own text", OwnText(), rows, 1) for rows in (8, None)]
    sizes = ((4, 1), (8, 1), (16, 1), (None, 1), (8, 4), (None, 4))
    ways += [("index and own text", both, *one) for one in sizes]
    figures: dict[str, Any] = {
        "machine": machine(),
        "weights": weights.name,
        "dtype": options.dtype,
        "quantize": options.quantize,
        "prompts": len(prompts),
    }
    plain = run(report_engine(decoder, weights.settings.vocabulary), prompts, None, 8, 1)
    tokens = [len(one.token_ids) for one in plain]
    figures["tokens a report"] = {"mean": round(statistics.mean(tokens), 1), "median": statistics.median(tokens)}
    for name, drafter, draft_rows, size in ways:
        engine = report_engine(decoder, weights.settings.vocabulary)
        found = run(engine, prompts, drafter, draft_rows, size)
        parted = [
            difference(decoder, prompt, one.token_ids, other.token_ids)
            for prompt, one, other in zip(prompts, plain, found, strict=True)
        ]
        stats = engine.stats
        figures[f"{name}, {draft_rows or 'measured'} rows, {size} together"] = {
            "drafted": stats.num_drafted,
            "accepted": stats.num_accepted,
            "acceptance": round(stats.acceptance, 4),
            "tokens a report and pass": round(stats.tokens_per_row_pass, 3),
            "passes": stats.num_passes,
            "reports that differ": sum(one is not None for one in parted),
            "of them ties": sum(one is not None and one.is_tie for one in parted),
            "steps": [round(one.steps, 2) for one in parted if one is not None],
        }
    step = max(1, len(prompts) // options.timed)
    for name, own in (("own text", OwnText()), ("index and own text", both)):
        figures[f"decode time, without to with drafts, {name}"] = times(
            decoder, weights, prompts[::step], own, options.rounds
        )
    figures["passes by positions, times one"] = {
        num: round(float(pass_costs(decoder).of(num) / pass_costs(decoder).of(1)), 2) for num in (1, 2, 4, 8, 16, 32)
    }
    sys.stdout.write(json.dumps(figures, indent=2) + "\n")


def read_prompts(weights: WeightsDir, manifest: Path, count: int) -> list[list[int]]:
    """Return the prompts of some val images."""
    rows = list(read_manifest(manifest, split="val"))
    rows = rows[:: max(1, len(rows) // count)][:count]
    settings, inputs = weights.settings, InputSettings()
    preset = resolve_preset(inputs.preset, settings.image, settings.vqgan.image_channels)
    images = ImageTokenizer(weights.load_vqgan("cpu", torch.float32), settings)
    encoded = encode_rows(rows, images, preset, inputs, progress=lambda done, total: None)
    return [settings.vocabulary.report_prompt(one) for one in encoded.codes_NP.tolist()]


def run(
    engine: Engine, prompts: Sequence[Sequence[int]], drafter: Drafter | None, draft_rows: int | None, size: int
) -> list[Generation]:
    """Return greedy reports, so many decoded together."""
    settings = dataclasses.replace(DecodeSettings(), draft_rows=draft_rows)
    found: list[Generation] = []
    for start in range(0, len(prompts), size):
        found += engine.generate(prompts[start : start + size], settings, drafter=drafter)
    return found


def times(
    decoder: Any, weights: WeightsDir, prompts: Sequence[Sequence[int]], drafter: Drafter, rounds: int
) -> dict[str, Any]:
    """Return medians of paired ratios, decoding alone and one at a time or four together."""
    found: dict[str, Any] = {"reports": len(prompts)}
    for size in (1, 4):
        ratios: dict[int | None, list[float]] = {8: [], None: []}
        for _ in range(rounds):
            plain = decode_s(decoder, weights, prompts, None, 8, size)
            for draft_rows, own in ratios.items():
                own.append(plain / decode_s(decoder, weights, prompts, drafter, draft_rows, size))
        for draft_rows, own in ratios.items():
            found[f"{size} together, {draft_rows or 'measured'} rows"] = {
                "median": round(statistics.median(own), 3),
                "range": [round(min(own), 3), round(max(own), 3)],
            }
    return found


def decode_s(
    decoder: Any,
    weights: WeightsDir,
    prompts: Sequence[Sequence[int]],
    drafter: Drafter | None,
    draft_rows: int | None,
    size: int,
) -> float:
    """Return the seconds that decoding took, prompts not counted."""
    engine = report_engine(decoder, weights.settings.vocabulary)
    run(engine, prompts, drafter, draft_rows, size)
    return engine.stats.decode_s


def machine() -> dict[str, str]:
    """Return what ran this."""
    return {"torch": torch.__version__, "python": platform.python_version(), "threads": str(torch.get_num_threads())}


if __name__ == "__main__":
    main()
