"""Choose the embedded model's size by measurement: sizes x budgets from nothing, validation loss against compute.

    python tools/scale_mini.py shards --init START --out runs/scale --picture docs/images/scaling.png

Every run is one ``chexmix pretrain --stage 1``: rows of 8 documents, AdamW, a cosine of its own over its own budget, so
that each is as good as its budget allows. What is finished is left alone, what was interrupted goes on. Compute is 6
operations a parameter and token and 12 a layer, width and pair of positions seen, of which causal attention has half.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chexmix_cli.core.files import write_text
from chexmix_cli.core.weights import open_weights

BATCH = 8
BUDGETS = (64, 192)


@dataclass(frozen=True, slots=True)
class Size:
    """Shape of a decoder."""

    num_layers: int
    hidden_size: int
    num_heads: int

    @property
    def name(self) -> str:
        """Return layers x width."""
        return f"{self.num_layers} x {self.hidden_size}"


SIZES = (Size(4, 128, 4), Size(6, 192, 6), Size(6, 256, 8))


def folder_of(size: Size, steps: int, out: Path) -> Path:
    """Return the folder of a run."""
    return out / f"{size.num_layers}x{size.hidden_size}-{steps}"


def command(size: Size, steps: int, options: argparse.Namespace) -> list[str]:
    """Return the command of one run."""
    folder = folder_of(size, steps, options.out)
    settings = [
        f"train.steps={steps}", f"train.batch_size={BATCH}", f"train.micro_batch_size={BATCH}",
        "train.precision=float32", f"train.validate_every={steps}", "train.checkpoint_every=16", "train.log_every=16",
        "documents.text_tokenizer=init", "optimizer.learning_rate=1.5e-3", "optimizer.min_learning_rate=1e-4",
        "optimizer.warmup_steps=10", "model.decoder.residual_dropout=0.0",
        f"model.decoder.num_layers={size.num_layers}", f"model.decoder.hidden_size={size.hidden_size}",
        f"model.decoder.num_heads={size.num_heads}", f"model.decoder.mlp_size={4 * size.hidden_size}",
    ]  # fmt: skip
    found = [sys.executable, "-m", "chexmix_cli", "pretrain", "--stage", "1", "--preset", "mini"]
    found += ["--data", str(options.data), "--init", str(options.init), "--out", str(folder)]
    found += [part for setting in settings for part in ("--set", setting)]
    return [*found, "--resume"] if any((folder / "checkpoints").glob("*")) else found


def measured(folder: Path, steps: int) -> dict[str, Any] | None:
    """Return the last validation of a finished run, or None."""
    metrics = folder / "metrics.jsonl"
    if not metrics.is_file():
        return None
    records = [json.loads(line) for line in metrics.read_text(encoding="utf-8").split("\n") if line]
    done = [record for record in records if record.get("step") == steps and "val_loss" in record]
    return done[-1] if done else None


def row(size: Size, steps: int, folder: Path) -> dict[str, Any]:
    """Return what a finished run cost and reached."""
    found, model = measured(folder, steps), open_weights(folder)
    assert found is not None, folder
    decoder, positions = model.settings.decoder, model.settings.vocabulary.prompt_length
    tokens = steps * BATCH * positions
    attention = 12 * decoder.num_layers * decoder.hidden_size * positions / 2
    flops = tokens * (6 * (decoder.num_parameters - decoder.num_rows * decoder.hidden_size) + attention)
    keys = ("val_loss", "val_loss_image", "val_loss_text")
    return {"size": size.name, "parameters": decoder.num_parameters, "documents": steps * BATCH, "flops": flops} | {
        key: found[key] for key in keys
    }


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw validation loss against compute, a line a size."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for axis, kind in zip(axes, ("image", "text"), strict=True):
        for size in SIZES:
            known = [one for one in rows if one["size"] == size.name]
            label = f"{size.name}, {known[0]['parameters'] / 1e6:.1f} M" if known else size.name
            axis.plot([one["flops"] for one in known], [one[f"val_loss_{kind}"] for one in known], "o-", label=label)
        axis.set(xscale="log", xlabel="training compute, FLOP", ylabel=f"nats a token of {kind}, val")
        axis.grid(alpha=0.3)
    axes[0].legend(frameon=False)
    figure.savefig(path, dpi=120)


def main(arguments: list[str] | None = None) -> int:
    """Train what is missing, then write ``OUT/scaling.json`` and the picture; return 1 if a run failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder of token shards")
    parser.add_argument("--init", type=Path, required=True, help="image tokenizer and text tokenizer, no decoder")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--picture", type=Path)
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    runs = [(size, steps) for steps in BUDGETS for size in SIZES]
    for size, steps in runs:
        folder = folder_of(size, steps, options.out)
        if measured(folder, steps) is not None:
            continue
        with folder.with_suffix(".log").open("a", encoding="utf-8") as log:
            if subprocess.run(command(size, steps, options), stdout=log, stderr=log, check=False).returncode:
                print(f"error: {folder}: see {folder.with_suffix('.log')}", file=sys.stderr)
                return 1
    rows = [row(size, steps, folder_of(size, steps, options.out)) for size, steps in runs]
    write_text(options.out / "scaling.json", json.dumps(rows, indent=2) + "\n")
    for one in rows:
        print(json.dumps(one))
    if options.picture is not None:
        draw(rows, options.picture)
    return 0


if __name__ == "__main__":
    sys.exit(main())
