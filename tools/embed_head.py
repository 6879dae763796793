"""Put a probe's head of findings, or projections, into the embedded model, so that commands use them out of the box.

    chexmix finetune --task classify --method probe --manifest manifest.jsonl --out runs/findings --set probe.grid=4
    python tools/embed_head.py runs/findings
    python tools/renew_sha256.py

docs/training.md has the commands before. The run must have started from the embedded model as it is: its states are
then the run's. Findings that were seen in fewer validation images than ``--fewest`` are left out, since nothing is
known of how well they are told.

    chexmix evaluate classification --manifest val.jsonl --split val --head head.safetensors -o result.json
    python tools/embed_head.py --quantiles result.json

gives the embedded head, which was made before heads kept quantiles, those of its validation rows: ``--at`` chooses
thresholds from them. They are of rows that no fit has seen; measured on the same rows, an operating point is reached by
construction, which ``quantiles_of`` in the head's provenance says.

    chexmix finetune --task retrieve --method probe --manifest manifest.jsonl --out runs/pairs
    python tools/embed_head.py --projections runs/pairs

gives it the projections of a run that left its values as they are.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from chexmix_cli.core.evals.probes.linear import probability_quantiles
from chexmix_cli.core.infer.classification.heads import Head
from chexmix_cli.core.infer.embeddings import values_read
from chexmix_cli.core.infer.retrieval.projection import Projection
from chexmix_cli.core.weights import WeightsDir, open_weights
from chexmix_cli.core.weights.files import HEAD_FILE, RETRIEVAL_FILE, RUN_MODEL
from chexmix_cli.core.weights.fingerprint import values_hash
from chexmix_cli.core.weights.formats.header import RETRIEVAL_KEY, read_header


def main() -> None:
    """Check where the head comes from, and write what is left of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, nargs="?")
    parser.add_argument("--fewest", type=int, default=10)
    parser.add_argument("--quantiles", type=Path, metavar="RESULT")
    parser.add_argument("--projections", type=Path, metavar="RUN")
    arguments = parser.parse_args()
    embedded = open_weights(None)
    if arguments.quantiles is not None:
        add_quantiles(embedded, json.loads(arguments.quantiles.read_bytes()))
        return
    if arguments.projections is not None:
        add_projections(embedded, arguments.projections / RUN_MODEL)
        return
    if arguments.run is None:
        parser.error("name a run, --quantiles or --projections")
    head = Head.load(arguments.run / HEAD_FILE)
    head.require_model(embedded.fingerprint, str(arguments.run / HEAD_FILE))
    if head.provenance.get("method") != "probe" or head.provenance.get("init") != embedded.fingerprint:
        parser.error(f"{arguments.run} is no probe of the embedded model ({embedded.fingerprint[:12]})")
    known = head.validation
    kept = [
        place
        for place, label in enumerate(head.labels)
        if min(known[label].positives, known[label].negatives) >= arguments.fewest
    ]
    labels = tuple(head.labels[place] for place in kept)
    head.of_labels(labels).save(embedded.path / HEAD_FILE)
    for label in labels:
        interval = known[label].interval
        assert interval is not None, f"{label}: no interval"
        low, high = interval
        print(f"{label:20} {known[label].auroc:.3f} ({low:.3f} to {high:.3f})  {known[label].positives} positive")


def add_quantiles(embedded: WeightsDir, result: Mapping[str, Any]) -> None:
    """Put the quantiles of a result's probabilities into the embedded head, and the hash of what it reads through."""
    path = embedded.path / HEAD_FILE
    head, columns = Head.load(path), result["items"]["columns"]
    assert result["model"]["fingerprint"] == embedded.fingerprint == head.model, "a result of other weights"
    assert result["data"]["split"] == "val", result["data"]["split"]
    quantiles = {}
    for label in head.labels:
        pairs = zip(columns[f"{label}, ignore"], columns[f"probability of {label}"], strict=True)
        found = [(stated, value) for stated, value in pairs if stated is not None]
        sides = [np.array([value for stated, value in found if stated == side]) for side in (1, 0)]
        known = head.validation[label]
        assert (len(sides[0]), len(sides[1])) == (known.positives, known.negatives), f"{label}: other rows"
        quantiles[label] = (probability_quantiles(sides[0]), probability_quantiles(sides[1]))
    provenance = {**head.provenance, "quantiles_of": "validation"}
    replace(head, quantiles=quantiles, values=stored_values_hash(embedded), provenance=provenance).save(path)


def stored_values_hash(weights: WeightsDir) -> str:
    """Return the hash of the values that hidden states follow from, whatever dtype they are stored in."""
    decoder, vqgan = weights.load_decoder("cpu", torch.float32), weights.load_vqgan("cpu", torch.float32)
    return values_hash(values_read(decoder, vqgan))


def add_projections(embedded: WeightsDir, made: Path) -> None:
    """Put the projections of a run's model beside the embedded model, whose values it must have."""
    projection = Projection.load(made, embedded.settings.decoder)
    assert projection is not None, f"{made} has no projections"
    projection.require_model(open_weights(made).fingerprint, str(made))
    assert stored_values_hash(open_weights(made)) == stored_values_hash(embedded), "a run that changed the model"
    header = json.loads(read_header(made / RETRIEVAL_FILE).metadata[RETRIEVAL_KEY])
    projection.model = embedded.fingerprint
    projection.save(embedded.path, header["provenance"])


if __name__ == "__main__":
    main()
