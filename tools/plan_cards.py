"""Draw the counted step of the released size on 1, 8 and 64 cards, and print the tables of docs/plan.md.

    python tools/plan_cards.py -o docs/images/plan-cards.png

Nothing is measured: the same code gives the same figures everywhere.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from chexmix_cli.core.evals.result import Curve, Series
from chexmix_cli.core.files import atomic_write
from chexmix_cli.core.plan.card import planned_card
from chexmix_cli.core.plan.cards import CardCount, plan_cards
from chexmix_cli.core.present.plots import panels_png
from chexmix_cli.core.settings.training import resolve_stage

NUMBERS = (1, 8, 64)
_KEPT = {"checkpoint_activations": False}
#: Stage, settings beside those of the preset, and a name.
RUNS: dict[str, tuple[str, dict[str, Any]]] = {
    "image tokenizer, 1 image": ("tokenizer", {"micro_batch_size": 1}),
    "stages 1 and 2": ("1", {}),
    "activations kept": ("1", _KEPT),
    "kept, compiled": ("1", {**_KEPT, "compile": True}),
    "kept, compiled, 8 rows": ("1", {**_KEPT, "compile": True, "micro_batch_size": 8}),
}


def main() -> int:
    """Count, draw, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="PNG")
    out: Path = parser.parse_args().out
    runs = {name: counted(*run) for name, run in RUNS.items()}
    with atomic_write(out) as file:
        file.write(panels_png([panel(runs, *what) for what in PANELS]))
    print("| run | cards | step, s | products | attention | memory | network | update | MFU | GB a card |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for name, counts in runs.items():
        for count in counts:
            print(row(name, count))
    return 0


PANELS = (("step_s", "Time of a step", "seconds", "xy"), ("percent", "Share of the cards' peak (MFU)", "%", "x"))


def counted(stage: str, train: dict[str, Any]) -> list[CardCount]:
    """Return the counts of one run; numbers of cards that its micro-batches do not fill are left out."""
    settings = resolve_stage(stage, "phi2", [("tool", {"train": train})]).settings
    micros = settings.train.batch_size // settings.train.micro_batch_size
    numbers = [number for number in NUMBERS if micros % number == 0]
    plan = plan_cards(settings, numbers, card=planned_card(), data=None, name=f"stage {stage}")
    return list(plan.counts)


def panel(runs: dict[str, list[CardCount]], what: str, title: str, unit: str, log_axes: str) -> Curve:
    """Return one quantity of all runs over the number of cards."""
    series = []
    for name, counts in runs.items():
        values = [count.step_s if what == "step_s" else 100 * count.mfu for count in counts]
        series.append(Series(name=name, x=[count.cards for count in counts], y=values))
    return Curve(name=what, title=title, x_label="H100 cards", y_label=unit, series=series, log_axes=log_axes)


def row(name: str, count: CardCount) -> str:
    """Return a line of the table."""
    parts = [f"{count.seconds.get(part, 0):.3g}" for part in ("products", "attention", "memory", "network", "update")]
    memory = f"{count.peak_bytes / 1e9:.0f}" + ("" if count.fits else ", too much")
    cells = [name, str(count.cards), f"{count.step_s:.3g}", *parts, f"{100 * count.mfu:.0f} %", memory]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    sys.exit(main())
