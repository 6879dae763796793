"""Learn a few real image-report pairs by heart: the whole path works, or it shows here.

    python tools/make_mini_manifest.py ../shared/data/radiographs -o /tmp/manifest.jsonl
    python benchmarks/overfit.py /tmp/manifest.jsonl

Radiographs become codes by chexmix-mini's image tokenizer, reports token ids by its text tokenizer. A decoder from
nothing learns them in stage 1 until the engine writes every report back, token for token, from its image; another one
learns in stage 2 at a fixed mask ratio until all hidden tokens are reconstructed, under masks that no step has drawn.
One hidden token of an image does not count: its first code is predicted where the decoder has read nothing but ``I_s``,
so that which of the images it belongs to cannot be known there.
Progress goes to stderr, one JSON record to stdout.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from chexmix_cli.core.data.manifest import read_manifest
from chexmix_cli.core.infer.reports.engine import report_engine
from chexmix_cli.core.models.attention import AttentionPlan
from chexmix_cli.core.models.decoder import Decoder
from chexmix_cli.core.models.init import init_decoder
from chexmix_cli.core.settings.inference import DecodeSettings
from chexmix_cli.core.settings.training import (
    LoopSettings,
    MaskingSettings,
    OptimizerSettings,
    Stage1Training,
    Stage2Training,
)
from chexmix_cli.core.train.examples.code_cache import training_tokenizer
from chexmix_cli.core.train.examples.documents import DocumentSet, encode_reports
from chexmix_cli.core.train.examples.films import manifest_films
from chexmix_cli.core.train.objectives import IGNORED, Documents
from chexmix_cli.core.train.optimizer import build_optimizer, learning_rate
from chexmix_cli.core.train.order import step_generator
from chexmix_cli.core.train.pretrain.decoder_task import DecoderTask
from chexmix_cli.core.weights import open_weights

STAGE2_CHECKS = 1_000_000


def main() -> None:
    """Train both stages and print what was learnt."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--pairs", type=int, default=16)
    parser.add_argument("--mask-ratio", type=float, default=0.8)
    parser.add_argument("--most-steps", type=int, default=800)
    arguments = parser.parse_args()
    weights = open_weights(None)
    model = weights.settings
    small = dataclasses.replace(
        model.decoder, hidden_size=128, num_layers=3, num_heads=4, mlp_size=512, residual_dropout=0.0
    )
    model = dataclasses.replace(model, decoder=small)
    rows = list(itertools.islice(read_manifest(arguments.manifest, split="train"), arguments.pairs))
    tokenizer = weights.load_text_tokenizer()
    assert tokenizer is not None, "the embedded model has one"
    reports = encode_reports(rows, tokenizer, model)
    films = manifest_films(rows, model)
    images = training_tokenizer(weights.load_vqgan("cpu", torch.float32), model)
    codes = images.encode_each(films.exact(index) for index in range(len(films)))[:, None]
    pairs = DocumentSet(codes, reports, [row.id for row in rows])
    common: dict[str, Any] = {
        "model": model,
        "train": LoopSettings(
            steps=arguments.most_steps, batch_size=len(pairs), micro_batch_size=len(pairs), precision="float32"
        ),
        "optimizer": OptimizerSettings(learning_rate=2e-3, warmup_steps=50),
    }
    ratio = (arguments.mask_ratio, arguments.mask_ratio)
    masking = MaskingSettings(image_ratio=ratio, text_ratio=ratio, attention="bidirectional")
    first = learn(Stage1Training(**common), pairs, reports_written)
    second = learn(Stage2Training(**common, masking=masking), pairs, tokens_reconstructed)
    tokens = sum(map(len, reports))
    print(json.dumps({"pairs": len(pairs), "report_tokens": tokens, "stage_1": first, "stage_2": second}))


def learn(
    settings: Stage1Training | Stage2Training,
    pairs: DocumentSet,
    measure: Callable[[Decoder, DecoderTask, DocumentSet], float],
) -> dict[str, float]:
    """Train until all is learnt, and return at which step that was and how much it is."""
    decoder = Decoder(settings.model.decoder)
    init_decoder(decoder, step_generator(0, 0))
    task = DecoderTask(settings, decoder, pairs, pairs, lambda directory: None)
    optimizer = build_optimizer(decoder, settings.optimizer)
    share, step = 0.0, 0
    while share < 1.0 and step < settings.train.steps:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(settings.optimizer, step, settings.train.steps)
        decoder.train()
        batch = task.examples.prepare(task.examples.select(step), step_generator(0, step))
        terms = task.loss(batch, 0)
        optimizer.zero_grad()
        (terms.total / task.num_units(batch)).backward()
        torch.nn.utils.clip_grad_norm_(decoder.parameters(), 1.0)
        optimizer.step()
        step += 1
        if step % 50 == 0:
            share = measure(decoder.eval(), task, pairs)
            loss = float(terms.total.detach()) / task.num_units(batch)
            print(f"step {step}: loss {loss:.4f}, learnt {share:.4f}", file=sys.stderr, flush=True)
    return {"steps": step, "loss": loss, "learnt": share}


@torch.no_grad()
def reports_written(decoder: Decoder, task: DecoderTask, pairs: DocumentSet) -> float:
    """Return the share of reports that the engine writes exactly, the end included."""
    vocabulary = task._vocabulary
    prompts = [vocabulary.report_prompt(pairs.codes(index, 0)) for index in range(len(pairs))]
    longest = max(pairs.report_lengths()) + 1
    written = report_engine(decoder, vocabulary).generate(
        prompts, DecodeSettings(max_new_tokens=longest, min_new_tokens=0)
    )
    exact = [
        list(generation.token_ids) == [*report, vocabulary.begin_image]
        for generation, report in zip(written, pairs.reports, strict=True)
    ]
    return sum(exact) / len(exact)


@torch.no_grad()
def tokens_reconstructed(decoder: Decoder, task: DecoderTask, pairs: DocumentSet) -> float:
    """Return the share of hidden tokens that are predicted right, under masks that no step has drawn."""
    batch: Documents = task.examples.prepare(list(range(len(pairs))), step_generator(0, STAGE2_CHECKS))
    input_1T, target_1T = batch.flat()
    is_opening_1T = input_1T == task._vocabulary.begin_image
    counts_1T = (target_1T != IGNORED) & ~is_opening_1T
    state_1TD = decoder(input_1T, attend_BTS=AttentionPlan(batch.contexts()))
    found_M = decoder.logits(state_1TD[counts_1T]).argmax(dim=-1)
    return float((found_M == target_1T[counts_1T]).float().mean())


if __name__ == "__main__":
    main()
