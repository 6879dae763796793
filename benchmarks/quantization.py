"""How far reports with 8-bit and 4-bit weights are from those without: real films, real reports, one model.

    python tools/make_mini_manifest.py ../shared/data/radiographs -o /tmp/manifest.jsonl
    python benchmarks/quantization.py /tmp/manifest.jsonl --films 100
    python benchmarks/quantization.py --weights FOLDER --own-text 200

Two looks at the validation rows. Given the reference report up to each token, is the likeliest next one the same, and
how much probability does the true one lose (read as reports are written: the prompt in one pass, then few tokens a
pass)? And of greedy reports: how many are the same, word for word, and how many tokens are before they part? The same
for bfloat16, as a measure of what rounding alone does. ``--own-text`` takes the first look at text that the model
itself draws behind random codes, in float32 at temperature 1: for weights of a shape that nothing was trained for.
One JSON record on stdout.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from chexmix_cli.core.data.manifest import read_manifest
from chexmix_cli.core.data.presets import resolve_preset
from chexmix_cli.core.infer.image_tokenizer import ImageTokenizer
from chexmix_cli.core.infer.manifest_images import encode_rows
from chexmix_cli.core.infer.reports.engine import report_engine
from chexmix_cli.core.infer.reports.writer import ReportWriter, WrittenReport
from chexmix_cli.core.kernels.quantized.native import uses_native
from chexmix_cli.core.models.decoder import Decoder
from chexmix_cli.core.models.linear import FEW_ROWS
from chexmix_cli.core.settings.inference import DecodeSettings, InputSettings
from chexmix_cli.core.weights import WeightsDir, open_weights

WAYS: dict[str, dict[str, Any]] = {
    "float32": {"dtype": torch.float32},
    "int8": {"dtype": torch.float32, "quantize": "int8"},
    "int4": {"dtype": torch.float32, "quantize": "int4"},
    "bfloat16": {"dtype": torch.bfloat16},
}


def main() -> None:
    """Measure, and print the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path, nargs="?", help="with val rows")
    parser.add_argument("--weights", help="default: the embedded model")
    parser.add_argument("--films", type=int, default=100)
    parser.add_argument("--own-text", type=int, metavar="TOKENS", help="of the model's own text, in place of films")
    options = parser.parse_args()
    if (options.manifest is None) == (options.own_text is None):
        parser.error("a manifest or --own-text: expected one of them")
    weights = open_weights(options.weights)
    measured = of_films(weights, options) if options.own_text is None else of_own_text(weights, options.own_text)
    kernels = "native" if uses_native() else "torch"
    sys.stdout.write(json.dumps({"model": weights.name, "kernels": kernels, **measured}) + "\n")


def of_films(weights: WeightsDir, options: argparse.Namespace) -> dict[str, Any]:
    """Return both looks, at films of the manifest and their reports."""
    settings, tokenizer = weights.settings, weights.load_text_tokenizer()
    if tokenizer is None:
        raise SystemExit("the weights have no text tokenizer: reports cannot be read")
    rows = [row for row in read_manifest(options.manifest, split="val") if row.report is not None][: options.films]
    images = ImageTokenizer(weights.load_vqgan("cpu", torch.float32), settings, batch_size=4)
    preset = resolve_preset("model", settings.image, settings.vqgan.image_channels)
    encoded = encode_rows(rows, images, preset, InputSettings(), progress=lambda done, of: None)
    codes = encoded.codes_NP.tolist()
    prompts = [settings.vocabulary.report_prompt(one) for one in codes]
    said = [[*tokenizer.encode(row.report or ""), settings.vocabulary.begin_text] for row in encoded.rows]
    logprobs: dict[str, list[Tensor]] = {}
    written: dict[str, list[WrittenReport]] = {}
    for name, way in WAYS.items():
        decoder = weights.load_decoder("cpu", **way)
        pairs = zip(prompts, said, strict=True)
        logprobs[name] = [next_logprobs(decoder, prompt, report) for prompt, report in pairs]
        writer = ReportWriter(decoder, settings.vocabulary, tokenizer)
        written[name] = [writer.write([one], DecodeSettings())[0] for one in codes]
    truth = torch.tensor([token_id for report in said for token_id in report])
    result: dict[str, Any] = {"films": len(codes), "tokens": len(truth)}
    for name in list(WAYS)[1:]:
        result[name] = {
            **compare_next(torch.cat(logprobs["float32"]), torch.cat(logprobs[name]), truth),
            **compare_reports(written["float32"], written[name]),
        }
    return result


def of_own_text(weights: WeightsDir, num_tokens: int) -> dict[str, Any]:
    """Return the first look, at so many tokens of the model's own."""
    settings = weights.settings
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(settings.vqgan.num_codes, (settings.vocabulary.tokens_per_image,), generator=generator)
    prompt, said = settings.vocabulary.report_prompt(codes.tolist()), list[int]()
    result: dict[str, Any] = {}
    exact_TV = torch.empty(0)
    for name, way in WAYS.items():
        decoder = weights.load_decoder("cpu", **way)
        if not said:
            drawing = DecodeSettings(temperature=1.0, max_new_tokens=num_tokens)
            said = report_engine(decoder, settings.vocabulary).generate([prompt], drawing)[0].token_ids
            exact_TV = next_logprobs(decoder, prompt, said)
            truth_T = torch.tensor(said)
            own = -exact_TV.gather(1, truth_T[:, None]).mean()
            result = {"tokens": len(said), "perplexity": round(float(own.exp()), 2)}
            continue
        result[name] = compare_next(exact_TV, next_logprobs(decoder, prompt, said), truth_T)
    return result


@torch.inference_mode()
def next_logprobs(decoder: Decoder, prompt: list[int], report: list[int]) -> Tensor:
    """Return log p over the vocabulary of what follows the prompt and each token but the last, (T, V) float32."""
    cache = decoder.new_cache(1, len(prompt) + len(report) - 1)
    states = [decoder(torch.tensor([prompt]), cache=cache)[:, -1:]]
    for start in range(0, len(report) - 1, FEW_ROWS):
        part = report[start : min(start + FEW_ROWS, len(report) - 1)]
        states.append(decoder(torch.tensor([part]), cache=cache))
    return torch.cat([decoder.logits(state[0]).float().log_softmax(dim=1) for state in states])


def compare_next(exact_TV: Tensor, other_TV: Tensor, truth_T: Tensor) -> dict[str, float]:
    """Return how often the likeliest next token is the same, and what the true one's log-probability changes by."""
    change_T = (other_TV - exact_TV).gather(1, truth_T[:, None])[:, 0]
    divergence_T = (exact_TV.exp() * (exact_TV - other_TV)).sum(dim=1)
    return {
        "same_next_token": round(float((exact_TV.argmax(dim=1) == other_TV.argmax(dim=1)).float().mean()), 5),
        "logprob_change_mean": round(float(change_T.mean()), 6),
        "logprob_change_abs_mean": round(float(change_T.abs().mean()), 6),
        "logprob_change_abs_max": round(float(change_T.abs().max()), 5),
        "divergence_mean": round(float(divergence_T.mean()), 8),
        "perplexity_ratio": round(float((-change_T.mean()).exp()), 5),
    }


def compare_reports(exact: list[WrittenReport], other: list[WrittenReport]) -> dict[str, float]:
    """Return how many greedy reports are the same, and the share of tokens before they part."""
    same, shared, whole = 0, 0, 0
    for one, two in zip(exact, other, strict=True):
        pairs = list(zip(one.token_ids, two.token_ids, strict=False))
        together = next((place for place, (left, right) in enumerate(pairs) if left != right), len(pairs))
        same += one.token_ids == two.token_ids
        shared, whole = shared + together, whole + len(one.token_ids)
    return {"same_reports": round(same / len(exact), 4), "tokens_before_parting": round(shared / whole, 4)}


if __name__ == "__main__":
    main()
