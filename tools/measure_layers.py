"""Measure which layer's states serve a probe best when most of a film is hidden: one table a part.

    python tools/measure_layers.py manifest.jsonl --tokens shards [--weights DIR] [--part kermany] [--rows 400]

``chexmix evaluate classification`` chooses a probe's layer on whole films and keeps it under every mask. Here every
layer has probes of its own: fitted on whole films (``clean``) and on films with a share of the codes hidden
(``masked``), each scored on val films under the same masks; and beside them what cross-validation on train films says
of the layer, on whole films and under masks: the two ways to choose one. Rows, masks and probes are those of
``measure_arms.py``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from measure_arms import SOURCES, belongs, label_of
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from chexmix_cli.core.data.manifest import ManifestRow, read_manifest
from chexmix_cli.core.data.shards.reader import ShardSet
from chexmix_cli.core.evals.classification.items import drawn_rows
from chexmix_cli.core.evals.metrics.bootstrap import group_numbers
from chexmix_cli.core.evals.probes.linear import fit_probe
from chexmix_cli.core.infer.embeddings import embed_codes
from chexmix_cli.core.infer.manifest_images import StoredCodes
from chexmix_cli.core.infer.position_masks import hidden_positions, hiding_order
from chexmix_cli.core.settings.classification import ProbeSettings
from chexmix_cli.core.weights import open_weights

_BATCH, _SEED, _GRID = 8, 0, 4


def masks(rows: Sequence[ManifestRow], ratio: float, grid_size: int) -> NDArray[np.bool_]:
    """Return which codes of each film are hidden, (N, P) bool."""
    orders = [hiding_order("random", grid_size, seed=_SEED, key=row.id) for row in rows]
    return np.stack([hidden_positions(order, ratio) for order in orders])


def main(arguments: list[str] | None = None) -> int:
    """Embed, fit, score, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--weights", help="default: the embedded model")
    parser.add_argument("--tokens", type=Path, required=True, help="token shards of the manifest")
    parser.add_argument("--part", choices=SOURCES, default="kermany")
    parser.add_argument("--rows", type=int, default=400, help="train rows that probes are fitted on; 0: all")
    parser.add_argument("--ratio", type=float, default=0.8, help="share of the codes hidden")
    options = parser.parse_args(arguments)
    weights = open_weights(options.weights)
    settings, label = weights.settings, label_of(options.part)
    shards = ShardSet.open(options.tokens)
    shards.require(codebook_hash=weights.codebook_hash)
    stored = StoredCodes(shards)
    decoder = weights.load_decoder("cpu", torch.float32)
    layers = list(range(decoder.settings.num_layers + 1))
    rows, labels, states = {}, {}, {}
    for split in ("train", "val"):
        found = [row for row in read_manifest(options.manifest, split=split) if belongs(row, options.part)]
        found = [row for row in found if row.labels.get(label) in (0, 1)]
        rows[split] = drawn_rows(found, options.rows, _SEED) if split == "train" else found
        labels[split] = np.array([[row.labels[label]] for row in rows[split]], float)
        codes_NP = np.stack([stored.of(row) for row in rows[split]])
        for ratio in (0.0, options.ratio):
            states[split, ratio] = embed_codes(
                decoder,
                settings.vocabulary,
                codes_NP,
                layers=layers,
                grid=_GRID,
                batch_size=_BATCH,
                is_masked_NP=masks(rows[split], ratio, settings.grid_size) if ratio else None,
                progress=lambda done, total: None,
            )
    groups_N = group_numbers([row.patient for row in rows["train"]])
    probe = ProbeSettings(grid=_GRID)
    print(f"{label}: {len(rows['train'])} train films, {len(rows['val'])} val films, {options.ratio:.0%} hidden")
    print(
        "| layer | train, whole | train, masked | val, whole | val masked, fitted clean | val masked, fitted masked |"
    )
    print("|---|---|---|---|---|---|")
    for layer in layers:
        fits = {
            ratio: fit_probe(
                {layer: states["train", ratio][layer]},
                labels["train"],
                [label],
                groups_N,
                probe,
                model="",
                provenance={},
            )
            for ratio in (0.0, options.ratio)
        }
        cells = [fit.chosen[label]["auroc"] for fit in fits.values()]
        for fitted, scored in ((0.0, 0.0), (0.0, options.ratio), (options.ratio, options.ratio)):
            prob_N = fits[fitted].head.probabilities(states["val", scored][layer])[:, 0]
            cells.append(roc_auc_score(labels["val"][:, 0], prob_N))
        print(f"| {layer} | " + " | ".join(f"{cell:.3f}" for cell in cells) + " |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
