"""Put a probe's head of findings into the embedded model, so that ``chexmix classify`` answers out of the box.

    chexmix finetune --task classify --method probe --manifest manifest.jsonl --out runs/findings --set probe.grid=4
    python tools/embed_head.py runs/findings
    python tools/renew_sha256.py

docs/training.md has the commands before. The run must have started from the embedded model as it is: its states are
then the run's. Findings that were seen in fewer validation images than ``--fewest`` are left out, since nothing is
known of how well they are told.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from chexmix_cli.core.infer.classification.heads import Head
from chexmix_cli.core.weights import open_weights
from chexmix_cli.core.weights.files import HEAD_FILE


def main() -> None:
    """Check where the head comes from, and write what is left of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--fewest", type=int, default=10)
    arguments = parser.parse_args()
    embedded = open_weights(None)
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
        low, high = known[label].interval
        print(f"{label:20} {known[label].auroc:.3f} ({low:.3f} to {high:.3f})  {known[label].positives} positive")


if __name__ == "__main__":
    main()
