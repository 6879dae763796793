"""A training step against transformers' PhiForCausalLM with plain cross-entropy: tokens a second and peak memory.

Both sides have the same shape, rows, optimiser and loop (float32, no dropout, AdamW, clipping): our decoder with the
chunked loss, and PhiForCausalLM (its SDPA attention) with all logits and ``F.cross_entropy``. Each measurement is a
process of its own, so that peak memory (resident set) is that side's alone; rounds alternate, and the median of the
paired ratios counts. Time is also given as processor time, which other work on the machine changes less.

    OMP_NUM_THREADS=2 python benchmarks/train_step.py
    OMP_NUM_THREADS=2 python benchmarks/train_step.py --growth docs/images/train-cost.png

What comes before a step, instead: so many small films that all lie in memory, or in files, each way in a process of its
own; peak memory, and milliseconds a film of a batch, of this process's processor and of the wall, by ``train.workers``.
The films are one film under many names: reading and keeping them costs what others would.

    OMP_NUM_THREADS=1 python benchmarks/train_step.py --films 800
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

SIDES = ("ours", "transformers")
FULL = {"hidden": 512, "layers": 6, "tokens": 2048, "rows": 1, "vocabulary": 58562, "steps": 2, "counted": 1.0}
SMALL = {"hidden": 256, "layers": 2, "tokens": 1024, "rows": 1, "vocabulary": 16384, "steps": 2, "counted": 1.0}
GROWTH = {
    "tokens": [512, 1024, 2048, 4096],
    "rows": [1, 2, 4, 8],
    "vocabulary": [8192, 16384, 32768, 58562],
}


def main() -> None:
    """Measure, and print ratios or draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--growth", type=Path, help="measure small models of several sizes instead; draw them here")
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=NUMBER", help=f"of {', '.join(FULL)}")
    parser.add_argument("--films", type=int, help="measure the memory of so many films, and batches of them, instead")
    parser.add_argument("--preset", default="mini", help="of the films' model")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        values = json.loads(arguments.one)
        print(json.dumps(measure_films(**values) if "place" in values else measure(**values)))
        return
    if arguments.films:
        for place, workers in (("memory", 0), ("files", 0), ("files", 1), ("files", 2)):
            values = {"place": place, "workers": workers, "count": arguments.films, "preset": arguments.preset}
            print(json.dumps({**values, **run_alone(values)}), flush=True)
        return
    changes = {name: float(value) for name, value in (item.split("=") for item in arguments.set)}
    if arguments.growth:
        draw(measure_growth({**SMALL, **changes}), arguments.growth)
        return
    for title, counted in (("stage 1, every target counts", 1.0), ("stage 2, 45 % of the targets count", 0.45)):
        pairs = [measure_pair({**FULL, **changes, "counted": counted}) for _ in range(arguments.rounds)]
        report(title, pairs)


def measure_pair(shape: dict[str, float]) -> dict[str, dict[str, float]]:
    """Return the figures of both sides, each from a process of its own."""
    found = {}
    for side in SIDES:
        found[side] = run_alone({"side": side, **shape})
    return found


def run_alone(values: dict[str, Any]) -> dict[str, float]:
    """Return the figures of one measurement, made by a process of its own."""
    done = subprocess.run(
        [sys.executable, __file__, "--one", json.dumps(values)], capture_output=True, text=True, check=True
    )
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def measure_films(place: str, workers: int, count: int, preset: str) -> dict[str, float]:
    """Return peak memory, and processor milliseconds of this process a film, of four batches of 64 changed films.

    Args:
        place: ``memory`` or ``files``: where the films are.
        workers: processes that read films and make batches.
        count: films, at twice the resolution of the preset's model.
        preset: of pretraining.
    """
    import dataclasses
    import tempfile

    import numpy as np
    from PIL import Image

    from chexmix_cli.core.data.manifest import ManifestRow
    from chexmix_cli.core.settings.training import resolve_stage
    from chexmix_cli.core.train.examples.film_cache import cache_films
    from chexmix_cli.core.train.examples.films import Films, ManifestFilms
    from chexmix_cli.core.train.examples.prefetch import made_ahead
    from chexmix_cli.core.train.examples.step_batches import StepBatches
    from chexmix_cli.core.train.image_tokenizer.task import FilmBatches

    settings = resolve_stage("tokenizer", preset, []).settings
    train = dataclasses.replace(settings.train, batch_size=64, micro_batch_size=64)
    settings = dataclasses.replace(settings, train=train)
    with tempfile.TemporaryDirectory() as name:
        side = settings.model.image.resolution_px * 2j
        y, x = np.mgrid[-1:1:side, -1:1:side]
        Image.fromarray((200 * np.exp(-(x**2 + y**2)) + 20 * np.sin(9 * x)).clip(0, 255).astype(np.uint8)).save(
            f"{name}/a.png"
        )
        rows = [ManifestRow(id=str(number), file=Path(name, "a.png")) for number in range(count)]
        sources = ManifestFilms(rows, settings.model)
        if place == "memory":
            pictures: Any = [sources[number] for number in range(count)]
        else:
            pictures = cache_films(sources, Path(name, "cache"), workers=workers, progress=lambda done, total: None)
        read_s = time.process_time()
        batches = StepBatches(FilmBatches(settings, Films(pictures, settings.model), [row.id for row in rows]), train)
        with made_ahead(batches, range(5), workers) as ahead:
            next(ahead)  # the processes are there
            begun = time.process_time(), time.perf_counter()
            for _ in range(4):
                next(ahead)
            spent = time.process_time() - begun[0], time.perf_counter() - begun[1]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        "peak_mib": peak,
        "read_s": read_s,
        "ms_a_film": 1000 * spent[0] / 256,
        "wall_ms_a_film": 1000 * spent[1] / 256,
    }


def measure(side: str, **shape: float) -> dict[str, float]:
    """Return tokens a second, a processor second, and the peak resident memory of one side's steps."""
    import torch

    size = {name: int(value) for name, value in shape.items() if name != "counted"}
    torch.manual_seed(0)
    rows_BT = torch.randint(size["vocabulary"] - 2, (size["rows"], size["tokens"] + 1))
    is_counted_BT = torch.rand(size["rows"], size["tokens"]) < shape["counted"]
    module, loss = (ours if side == "ours" else peer)(size)
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-4)
    times = []
    for _ in range(size["steps"] + 1):
        begun = time.perf_counter(), time.process_time()
        optimizer.zero_grad(set_to_none=True)
        total = loss(rows_BT, is_counted_BT)
        (total / is_counted_BT.sum()).backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        times.append((time.perf_counter() - begun[0], time.process_time() - begun[1]))
    num_tokens = size["rows"] * size["tokens"]
    wall, processor = (num_tokens / statistics.median(column) for column in zip(*times[1:], strict=True))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"tokens_per_s": wall, "tokens_per_cpu_s": processor, "peak_mib": peak, "loss": float(total.detach())}


def ours(size: dict[str, int]) -> tuple[Any, Callable[[Any, Any], Any]]:
    """Return our decoder and its loss."""
    import dataclasses

    from chexmix_cli.core.models.decoder import Decoder
    from chexmix_cli.core.models.init import init_decoder
    from chexmix_cli.core.settings.model import DecoderSettings
    from chexmix_cli.core.train.objectives import IGNORED, shifted, token_losses
    from chexmix_cli.core.train.order import step_generator
    from chexmix_cli.core.vocab import Vocabulary

    num_rows = size["vocabulary"]
    vocabulary = Vocabulary(
        num_text=num_rows - 6,
        num_codes=4,
        image_start=num_rows - 6,
        tokens_per_image=4,
        begin_image=1,
        end_image=2,
        begin_text=3,
        mask=num_rows - 2,
        pad=num_rows - 1,
        num_rows=num_rows,
    )
    decoder = Decoder(
        DecoderSettings(
            num_rows=num_rows,
            hidden_size=size["hidden"],
            num_layers=size["layers"],
            num_heads=size["hidden"] // 64,
            mlp_size=4 * size["hidden"],
            rotary_size=32,
            max_positions=size["tokens"],
            residual_dropout=0.0,
        )
    )
    init_decoder(decoder, step_generator(0, 0))

    def loss(rows_BT: Any, is_counted_BT: Any) -> Any:
        documents = shifted(rows_BT.tolist(), vocabulary)
        target_BT = documents.target_BT.masked_fill(~is_counted_BT, IGNORED)
        return token_losses(decoder, dataclasses.replace(documents, target_BT=target_BT))[0]

    return decoder.train(), loss


def peer(size: dict[str, int]) -> tuple[Any, Callable[[Any, Any], Any]]:
    """Return PhiForCausalLM and the plain loss over all its logits."""
    from torch.nn import functional as F
    from transformers import PhiConfig, PhiForCausalLM

    config = PhiConfig(
        vocab_size=size["vocabulary"],
        hidden_size=size["hidden"],
        intermediate_size=4 * size["hidden"],
        num_hidden_layers=size["layers"],
        num_attention_heads=size["hidden"] // 64,
        max_position_embeddings=size["tokens"],
        partial_rotary_factor=0.5,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attention_dropout=0.0,
        hidden_act="gelu_new",
        tie_word_embeddings=False,
        attn_implementation="sdpa",
    )
    phi = PhiForCausalLM(config).train()

    def loss(rows_BT: Any, is_counted_BT: Any) -> Any:
        target_BT = rows_BT[:, 1:].masked_fill(~is_counted_BT, -100)
        logits_BTV = phi(rows_BT[:, :-1], use_cache=False).logits.float()
        return F.cross_entropy(logits_BTV.flatten(0, 1), target_BT.flatten(), ignore_index=-100, reduction="sum")

    return phi, loss


def report(title: str, pairs: list[dict[str, dict[str, float]]]) -> None:
    """Print both sides' medians and the median of the paired ratios."""
    print(title)
    for name in ("tokens_per_s", "tokens_per_cpu_s", "peak_mib"):
        mine, theirs = (statistics.median(pair[side][name] for pair in pairs) for side in SIDES)
        ratios = sorted(pair["ours"][name] / pair["transformers"][name] for pair in pairs)
        spread = f"{ratios[0]:.2f}..{ratios[-1]:.2f}"
        print(f"  {name}: {mine:.1f} ours, {theirs:.1f} transformers; ratio {statistics.median(ratios):.2f} ({spread})")


def measure_growth(shape: dict[str, float]) -> dict[str, list[tuple[float, dict[str, dict[str, float]]]]]:
    """Return both sides' figures with one size changed at a time."""
    found: dict[str, list[tuple[float, dict[str, dict[str, float]]]]] = {}
    for name, values in GROWTH.items():
        for value in values:
            pair = measure_pair({**shape, name: value})
            found.setdefault(name, []).append((value, pair))
            print(json.dumps({name: value, **pair}), flush=True)
    return found


def draw(found: dict[str, list[tuple[float, dict[str, dict[str, float]]]]], path: Path) -> None:
    """Draw processor seconds a step and peak memory against each size."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, len(found), figsize=(10, 5.5), sharey="row", constrained_layout=True)
    for column, (name, points) in enumerate(found.items()):
        for side, marker in zip(SIDES, "os", strict=True):
            sizes = [value for value, _ in points]
            tokens = [
                (value if name == "tokens" else SMALL["tokens"]) * (value if name == "rows" else SMALL["rows"])
                for value in sizes
            ]
            seconds = [count / pair[side]["tokens_per_cpu_s"] for count, (_, pair) in zip(tokens, points, strict=True)]
            axes[0, column].plot(sizes, seconds, marker=marker, label=side)
            axes[1, column].plot(sizes, [pair[side]["peak_mib"] for _, pair in points], marker=marker, label=side)
        axes[1, column].set_xlabel({"tokens": "tokens a row", "rows": "rows a step", "vocabulary": "vocabulary"}[name])
        for axis in axes[:, column]:
            axis.set_xlim(left=0)
            axis.grid(alpha=0.3)
            axis.locator_params(axis="x", nbins=4)
    # Once all is drawn: a limit stops an axis, and those beside it, from growing with what comes.
    for axis in axes[:, 0]:
        axis.set_ylim(bottom=0)
    axes[0, 0].set_ylabel("processor seconds a step")
    axes[1, 0].set_ylabel("peak memory, MiB")
    axes[0, 0].legend()
    figure.savefig(path, dpi=110)
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
