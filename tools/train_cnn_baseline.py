"""Train a plain CNN on a manifest's train rows, from nothing, and score its val rows with parts of the films hidden.

    python tools/train_cnn_baseline.py manifest.jsonl -o results/cnn [--side 112] [--steps 4000] [--seed 0]

The baseline a reader asks for first: a residual network of one block a stage (4.9 million parameters, about the
decoder's number), all findings at once, binary cross-entropy over the labels that are stated. Two networks are
trained, each in its own folder: ``clean`` on whole films; ``masked`` on films with a random share of their cells
hidden, 0 to 90 %. A cell is 8 pixels of 224, as an image code of the embedded model is, and is filled with the mean of
what is visible; the masks of val films are those of ``chexmix evaluate classification`` (same rule, seed and ids).
Train films are turned, scaled, shifted, and changed in contrast and noise as no label minds; never mirrored.

A folder has ``checkpoint.pt`` (a run goes on from it, bit for bit), ``RATIO.predictions.jsonl`` with the probabilities
of all val films, as ``chexmix evaluate classification`` takes them, and ``PART-RATIO.json``: its result on the films of
a part of ``measure_arms.py``. ``cnn.json`` beside them has the AUROCs of all, with their intervals by patient.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measure_arms import SOURCES, belongs, label_of
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from chexmix_cli.core.data.manifest import ManifestRow, read_manifest
from chexmix_cli.core.data.presets import resolve_preset
from chexmix_cli.core.errors import DataError
from chexmix_cli.core.evals.classification.pixel_baseline import fill_masked
from chexmix_cli.core.evals.classification.protocol import evaluate_predictions
from chexmix_cli.core.files import write_json, write_text
from chexmix_cli.core.infer.manifest_images import read_rows
from chexmix_cli.core.infer.position_masks import hidden_positions, hiding_order
from chexmix_cli.core.settings.classification import EvaluateClassificationSettings, EvaluatedLabels
from chexmix_cli.core.settings.inference import InputSettings
from chexmix_cli.core.weights import open_weights

RATIOS = (0.0, 0.2, 0.4, 0.6, 0.8)
#: Cells along a side, whatever the resolution.
GRID = 28
KINDS = ("clean", "masked")
_WIDTHS = (64, 128, 256, 512)
_MOST_HIDDEN = 0.9
#: Of val films' masks, whatever the network's seed: that of the evaluations it stands beside.
_MASK_SEED = 0
_LEARNING_RATE, _DECAY, _WARMUP = 1e-3, 5e-2, 0.05
_CHECKPOINT_EVERY = 100
#: Bounds of what is drawn for a train film: degrees, share of the size, share of the side, exponent, share, deviation.
_TURN, _SCALE, _SHIFT, _GAMMA, _CONTRAST, _NOISE = 7.0, 0.1, 0.05, 0.2, 0.15, 0.03


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions and a short cut; halves the picture by ``stride``."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(before, after, 3, stride, 1, bias=False),
            nn.BatchNorm2d(after),
            nn.ReLU(),
            nn.Conv2d(after, after, 3, 1, 1, bias=False),
            nn.BatchNorm2d(after),
        )
        shortcut = [nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after)]
        self.shortcut = nn.Sequential(*shortcut) if stride > 1 or before != after else nn.Identity()

    def forward(self, x_BCYX: Tensor) -> Tensor:
        return F.relu(self.body(x_BCYX) + self.shortcut(x_BCYX))


def network(num_labels: int) -> nn.Sequential:
    """Return a residual network of He et al. 2016 with one block a stage: (B, 1, Y, X) in [-1, 1] to (B, K) logits."""
    stem = [nn.Conv2d(1, _WIDTHS[0], 7, 2, 3, bias=False), nn.BatchNorm2d(_WIDTHS[0]), nn.ReLU()]
    blocks = [
        ResidualBlock(before, after, 1 if before == after else 2)
        for before, after in zip((_WIDTHS[0], *_WIDTHS[:-1]), _WIDTHS, strict=True)
    ]
    ends = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(_WIDTHS[-1], num_labels)]
    return nn.Sequential(*stem, nn.MaxPool2d(3, 2, 1), *blocks, *ends)


def read_films(rows: Sequence[ManifestRow], side: int) -> NDArray[np.uint8]:
    """Return the films of rows as the model's preset reads them, at another resolution, (N, Y, X)."""
    settings = replace(open_weights(None).settings.image, resolution_px=side)
    films_NYX = np.empty((len(rows), side, side), np.uint8)
    for place, (row, found) in enumerate(read_rows(rows, resolve_preset("model", settings, 1), InputSettings())):
        if isinstance(found, DataError):
            raise DataError(found.reason, found.what, where=row.id)
        films_NYX[place] = np.rint((found[0] + 1) * 127.5)
        if (place + 1) % 500 == 0 or place + 1 == len(rows):
            print(f"read {place + 1} of {len(rows)} films", file=sys.stderr, flush=True)
    return films_NYX


def targets(rows: Sequence[ManifestRow], names: Sequence[str]) -> NDArray[np.float32]:
    """Return labels 1 and 0, and NaN where a row does not state one, or is uncertain, (N, K)."""
    values = [[row.labels.get(name) for name in names] for row in rows]
    return np.array([[math.nan if value not in (0, 1) else value for value in row] for row in values], np.float32)


def changed(films_BYX: Tensor, generator: torch.Generator) -> Tensor:
    """Return films in [-1, 1] turned, scaled, shifted, and of other contrast and noise, (B, 1, Y, X)."""
    count = len(films_BYX)
    draw_BD = torch.rand(count, 6, generator=generator) * 2 - 1
    angle_B = draw_BD[:, 0] * math.radians(_TURN)
    size_B = 1 + draw_BD[:, 1] * _SCALE
    cos_B, sin_B = angle_B.cos() / size_B, angle_B.sin() / size_B
    rows = [torch.stack([cos_B, -sin_B, 2 * _SHIFT * draw_BD[:, 2]], 1)]
    rows.append(torch.stack([sin_B, cos_B, 2 * _SHIFT * draw_BD[:, 3]], 1))
    share_B1YX = (films_BYX[:, None] + 1) / 2
    grid = F.affine_grid(torch.stack(rows, 1), list(share_B1YX.shape), align_corners=False)
    share_B1YX = F.grid_sample(share_B1YX, grid, align_corners=False).clamp(0, 1)
    share_B1YX = share_B1YX ** torch.exp(_GAMMA * draw_BD[:, 4])[:, None, None, None]
    share_B1YX = (share_B1YX - 0.5) * (1 + _CONTRAST * draw_BD[:, 5])[:, None, None, None] + 0.5
    deviation = _NOISE * torch.rand(count, 1, 1, 1, generator=generator)
    return ((share_B1YX + deviation * torch.randn(share_B1YX.shape, generator=generator)) * 2 - 1).clamp(-1, 1)


def random_masks(count: int, generator: torch.Generator) -> NDArray[np.bool_]:
    """Return masks of cells, each film with a share of its own, (B, P)."""
    ratio_B1 = torch.rand(count, 1, generator=generator) * _MOST_HIDDEN
    rank_BP = torch.rand(count, GRID**2, generator=generator).argsort(1).argsort(1)
    return (rank_BP < (ratio_B1 * GRID**2).round()).numpy()


def hidden(films_B1YX: Tensor, is_masked_BP: NDArray[np.bool_]) -> Tensor:
    """Return films with cells filled with the mean of what is visible."""
    return torch.from_numpy(fill_masked(films_B1YX[:, 0].numpy(), is_masked_BP))[:, None]


def from_levels(films_BYX: NDArray[np.uint8]) -> Tensor:
    """Return pixels in [-1, 1]."""
    return torch.from_numpy(films_BYX).float() / 127.5 - 1


def batch_of(step: int, count: int, options: argparse.Namespace) -> NDArray[np.int64]:
    """Return the rows of a step: every row once before any comes again, in an order of the seed."""
    places = np.arange(step * options.batch, (step + 1) * options.batch)
    orders = {epoch: np.random.default_rng([options.seed, epoch]).permutation(count) for epoch in {*(places // count)}}
    return np.array([orders[place // count][place % count] for place in places])


def train(
    kind: str, films_NYX: NDArray[np.uint8], target_NK: NDArray[np.float32], folder: Path, options: argparse.Namespace
) -> nn.Module:
    """Return a trained network; a run that was interrupted goes on."""
    torch.manual_seed(options.seed)
    model = network(target_NK.shape[1])
    optimizer = torch.optim.AdamW(model.parameters(), lr=_LEARNING_RATE, weight_decay=_DECAY)
    first, checkpoint = 0, folder / "checkpoint.pt"
    if checkpoint.is_file():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        first = state["step"]
    model.train()
    started, total, warmup = time.monotonic(), options.steps, max(1, round(_WARMUP * options.steps))
    for step in range(first, total):
        rate = min((step + 1) / warmup, 0.5 * (1 + math.cos(math.pi * step / total)))
        for group in optimizer.param_groups:
            group["lr"] = _LEARNING_RATE * rate
        # Of dropout, too: a step draws the same whether the run was interrupted before it or not.
        torch.manual_seed(options.seed * 1_000_003 + step)
        generator = torch.Generator().manual_seed(options.seed * 1_000_003 + step)
        places = batch_of(step, len(films_NYX), options)
        films_B1YX = changed(from_levels(films_NYX[places]), generator)
        if kind == "masked":
            films_B1YX = hidden(films_B1YX, random_masks(len(places), generator))
        target_BK = torch.from_numpy(target_NK[places])
        is_known_BK = ~target_BK.isnan()
        losses_BK = F.binary_cross_entropy_with_logits(model(films_B1YX), target_BK.nan_to_num(), reduction="none")
        loss = (losses_BK * is_known_BK).sum() / is_known_BK.sum().clamp_min(1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if (step + 1) % _CHECKPOINT_EVERY == 0 or step + 1 == total:
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step + 1}
            partial = checkpoint.with_suffix(".partial")
            torch.save(state, partial)
            partial.replace(checkpoint)
        if (step + 1) % 20 == 0:
            speed = (step + 1 - first) * options.batch / (time.monotonic() - started)
            print(f"{kind}: step {step + 1} of {total}, loss {loss:.4f}, {speed:.1f} films/s", file=sys.stderr)
    return model


@torch.inference_mode()
def probabilities(
    model: nn.Module, films_NYX: NDArray[np.uint8], ids: Sequence[str], ratio: float, options: argparse.Namespace
) -> NDArray[np.float64]:
    """Return the probabilities of films with a share of their cells hidden, (N, K)."""
    model.eval()
    found = []
    for start in range(0, len(films_NYX), options.batch):
        part = slice(start, start + options.batch)
        films_B1YX = from_levels(films_NYX[part])[:, None]
        if ratio:
            orders = [hiding_order("random", GRID, seed=_MASK_SEED, key=key) for key in ids[part]]
            films_B1YX = hidden(films_B1YX, np.stack([hidden_positions(order_P, ratio) for order_P in orders]))
        found.append(torch.sigmoid(model(films_B1YX)).double().numpy())
    return np.concatenate(found)


def main(arguments: list[str] | None = None) -> int:
    """Train both networks and measure them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of the results")
    parser.add_argument("--side", type=int, default=112, help=f"pixels along a side, a multiple of {GRID}")
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    rows = {split: list(read_manifest(options.manifest, split=split)) for split in ("train", "val")}
    names = sorted({name for row in rows["train"] for name, value in row.labels.items() if value in (0, 1)})
    films = {split: read_films(rows[split], options.side) for split in rows}
    target_NK, ids = targets(rows["train"], names), [row.id for row in rows["val"]]
    options.output.mkdir(parents=True, exist_ok=True)
    results = []
    for kind in options.kinds:
        folder = options.output / kind
        folder.mkdir(exist_ok=True)
        model = train(kind, films["train"], target_NK, folder, options)
        for ratio in RATIOS:
            prob_NK = probabilities(model, films["val"], ids, ratio, options)
            results += measured(kind, ratio, rows["val"], prob_NK, names, options.output)
    parameters = sum(value.numel() for value in network(len(names)).parameters())
    shown = {name: getattr(options, name) for name in ("side", "steps", "batch", "seed")}
    write_json(options.output / "cnn.json", {"parameters": parameters, **shown, "auroc": results})
    return 0


def measured(
    kind: str, ratio: float, rows: Sequence[ManifestRow], prob_NK: NDArray[np.float64], names: Sequence[str], out: Path
) -> list[dict[str, Any]]:
    """Write the probabilities of val films, and return the AUROC of each part of ``measure_arms.py``."""
    found = [dict(zip(names, map(float, prob_K), strict=True)) for prob_K in prob_NK]
    lines = [json.dumps({"id": row.id, "probabilities": one}) + "\n" for row, one in zip(rows, found, strict=True)]
    write_text(out / kind / f"{ratio:g}.predictions.jsonl", "".join(lines))
    results = []
    for part in SOURCES:
        label = label_of(part)
        places = [place for place, row in enumerate(rows) if belongs(row, part)]
        own = [rows[place] for place in places]
        if not {0, 1} <= {row.labels.get(label) for row in own}:
            continue
        settings = EvaluateClassificationSettings(labels=EvaluatedLabels(names=(label,)))
        evaluation = evaluate_predictions(own, names, prob_NK[places], settings, None)
        write_json(out / kind / f"{part}-{ratio:g}.json", evaluation.to_dict())
        number = next(one for one in evaluation.measurements if one.name == "auroc" and one.fields["label"] == label)
        where = {"trained": kind, "ratio": ratio, "part": part, "label": label}
        results.append({**where, "auroc": number.value, "interval": number.interval, "n": number.n})
    return results


if __name__ == "__main__":
    sys.exit(main())
