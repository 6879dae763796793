"""Every promise on speed and memory, measured against what it is promised against, in one command.

    OMP_NUM_THREADS=2 python benchmarks/run.py /tmp/full --size full --images DIR --manifest M -o full.json
    OMP_NUM_THREADS=2 python benchmarks/run.py /tmp/mini --size mini --rounds 3

Full size is the released shape (2.8 B parameters) with random weights, written once to the folder; mini is the embedded
model. Each side of a comparison is a process of its own; rounds take the sides in turn, every second one backwards, and
ratios are paired within a round: the median counts, with its range. ``--rows`` picks. Reports are decoded greedily on
random codes by transformers' PhiForCausalLM and by ours, and their ids compared: the first that differs must be a tie
within rounding by transformers' own logits. On a CPU without bfloat16 instructions both sides take float32, unless
``--dtype`` says otherwise. With ``--new-tokens`` below 200, the time of 200 is computed from prompt's and token's.

Drafts at full size: the text of random weights is not realistic, so drafts are replayed, right as often as those of
the embedded model were on films of ``--manifest``, measured before. Without a manifest they are the text's own.

A table goes to stderr, all figures with machine and versions as JSON to ``-o`` (or stdout).
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from tokenize_images import machine
from train_step import FULL, SMALL, measure_pair
from write_random import write_random

from chexmix_cli.core.evals.result import Curve, Series
from chexmix_cli.core.present.plots import curve_png
from chexmix_cli.core.runtime import choose_dtype
from chexmix_cli.core.weights import open_weights

HERE = Path(__file__).parent
#: New tokens of a report, as promised for.
REPORT_TOKENS = 200
#: Of a logit, relative: what rounding may move two apart by.
TIE = {"float32": 1e-4, "bfloat16": 2.0**-7}
FULL_PARAMETERS = 2_800_000_000
BITS = ("int8", "int4")


@dataclass(kw_only=True)
class Row:
    """One promise and what was measured.

    Attributes:
        name: what.
        aim: the ratio promised; reached from above, or with ``at_most`` from below.
        values: measured, one a round.
        detail: everything else that belongs to it.
    """

    name: str
    aim: float
    values: Sequence[float]
    at_most: bool = False
    detail: dict[str, Any] = field(default_factory=dict)

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def is_met(self) -> bool:
        return self.median <= self.aim if self.at_most else self.median >= self.aim

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "median": self.median, "met": self.is_met}

    def cells(self) -> list[str]:
        spread = f"{self.median:.3g} ({min(self.values):.3g} to {max(self.values):.3g})"
        aim = f"{'at most' if self.at_most else 'at least'} {self.aim:g}"
        return [self.name, aim, spread, "yes" if self.is_met else "no", self.detail.get("note", "")]


class Bench:
    """What a run was asked for, and the processes it starts."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.is_full = options.size == "full"
        device = torch.device("cpu")
        self.dtype = str(
            choose_dtype(options.dtype, device, num_parameters=FULL_PARAMETERS if self.is_full else 0)
        ).removeprefix("torch.")
        self.weights = str(write_random(options.folder)) if self.is_full else "chexmix-mini"
        self.found: dict[str, Any] = {}

    def side(self, kind: str, **more: Any) -> dict[str, Any]:
        """Run one side of one measurement in a process of its own."""
        job = {"kind": kind, "folder": self.weights, "dtype": self.dtype, "quantize": None, "drafts": "none"}
        return last_json([sys.executable, str(HERE / "report_sides.py"), json.dumps({**job, **more})])

    @property
    def prompt_tokens(self) -> int:
        return open_weights(self.weights).settings.vocabulary.prompt_length

    def machine_rates(self) -> dict[str, float]:
        """Return this machine's bandwidth and rate of products, measured once."""
        if "rates" not in self.found:
            self.found["rates"] = self.side("machine")
        rates: dict[str, float] = self.found["rates"]
        return rates


def last_json(command: list[str]) -> dict[str, Any]:
    """Return the last line that a program prints, as JSON; its stderr goes through."""
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{command[1]} ended with {done.returncode}: what it said is above")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def reports(bench: Bench) -> list[Row]:
    """Measure reports: ours plain and with weights in 8 and in 4 bits, each without drafts and with them."""
    options, tokens = bench.options, bench.options.new_tokens
    drafting: dict[str, Any] = {"drafts": "own"}
    if options.manifest is not None:
        accepted = bench.side("acceptance", manifest=str(options.manifest), films=options.films)
        bench.found["acceptance"] = accepted
        drafting = {"drafts": "replay", "accepted": accepted["accepted"], "drafted": accepted["drafted"]}
    asked: dict[str, dict[str, Any]] = {"transformers": {"side": "transformers"}, "plain": {}}
    asked["drafts"] = drafting
    for bits in BITS:
        asked |= {bits: {"quantize": bits}, f"{bits} + drafts": {"quantize": bits, **drafting}}
    wanted = {"transformers", "plain", *options.rows}
    names = [name for name in asked if set(name.split(" + ")) <= wanted]
    rounds: list[dict[str, Any]] = []
    ids: dict[str, list[int]] = {}
    for number in range(options.rounds):
        found: dict[str, Any] = {}
        for name in names if number % 2 == 0 else [*names[1:], names[0]]:
            own = _without_drafts(name)
            common = {"side": "ours", "prompt_tokens": bench.prompt_tokens, "new_tokens": tokens, "ids": ids.get(own)}
            found[name] = bench.side("report", **{**common, **asked[name]})
            if name == own:
                ids[name] = found[name]["ids"]
            print(f"round {number + 1}: {name}: {_seconds(found[name], tokens):.2f} s", file=sys.stderr)
        rounds.append(found)
    bench.found["reports"] = [
        {name: {k: v for k, v in one.items() if k != "likeliest"} for name, one in found.items()} for found in rounds
    ]
    aims = {"plain": 2.0, "drafts": 3.0}
    return [_report_row(bench, name, aims.get(name, 4.0), rounds) for name in names[1:]]


def _without_drafts(name: str) -> str:
    """Return the way of the same weights that reads no drafts."""
    return "plain" if name == "drafts" else name.removesuffix(" + drafts")


def _seconds(found: dict[str, Any], tokens: int) -> float:
    """Return the time of a report of ``REPORT_TOKENS``, from one of ``tokens``."""
    per_token = found["decode_s"] / (tokens - 1)
    return float(found["prefill_s"] + per_token * (REPORT_TOKENS - 1))


def _report_row(bench: Bench, name: str, aim: float, rounds: list[dict[str, Any]]) -> Row:
    tokens = bench.options.new_tokens
    ratios = [_seconds(found["transformers"], tokens) / _seconds(found[name], tokens) for found in rounds]
    sides = {side: [found[side] for found in rounds] for side in ("transformers", name)}
    detail: dict[str, Any] = {
        side: {
            part: statistics.median(one[part] / count for one in sides[side])
            for part, count in (("prefill_s", 1), ("decode_s", tokens - 1))
        }
        for side in sides
    }
    detail["floor"] = floor(bench, rounds[0][name], detail[name])
    note = f"{detail[name]['prefill_s']:.3g} s + {detail[name]['decode_s']:.3g} s a token"
    note += f", transformers {detail['transformers']['prefill_s']:.3g} + {detail['transformers']['decode_s']:.3g}"
    bits = next((bits for bits in BITS if name.startswith(bits)), None)
    if bits is None:
        detail["ids"] = [same_ids(found["transformers"], found[name]["ids"], bench.dtype) for found in rounds]
        note += f"; ids {detail['ids'][0]['verdict']}"
    if name.endswith("drafts"):
        detail["times_without_drafts"] = [
            _seconds(found[_without_drafts(name)], tokens) / _seconds(found[name], tokens) for found in rounds
        ]
        note += f"; {sides[name][0]['tokens_per_pass']:.2f} tokens a pass"
        note += f", {statistics.median(detail['times_without_drafts']):.2f} times without drafts"
    row = Row(name=f"report, {name}", aim=aim, values=ratios, detail={**detail, "note": note})
    if not row.is_met:
        if (profile := f"profile {bits or 'plain'}") not in bench.found:
            bench.found[profile] = bench.side("profile", quantize=bits)
        row.detail["profile"] = bench.found[profile]
    return row


def same_ids(theirs: dict[str, Any], ids: list[int], dtype: str) -> dict[str, Any]:
    """Return whether two greedy reports agree up to a tie within rounding, by transformers' logits."""
    pairs = list(zip(theirs["ids"], ids, strict=True))
    place = next((place for place, (one, other) in enumerate(pairs) if one != other), None)
    if place is None:
        return {"verdict": "equal", "equal": len(pairs)}
    found, logits = theirs["likeliest"][place]
    at = dict(zip(found, logits, strict=True))
    gap = at[pairs[place][0]] - at[pairs[place][1]] if pairs[place][1] in at else float("inf")
    is_tie = gap <= TIE[dtype] * max(1.0, abs(logits[0]))
    return {"verdict": f"equal up to {'a tie' if is_tie else 'a DIFFERENCE'} at {place}", "equal": place, "gap": gap}


def floor(bench: Bench, found: dict[str, Any], measured: dict[str, float]) -> dict[str, float]:
    """Return the least a report could take here: its operations at the products' rate, its bytes at the memory's."""
    rates, settings = bench.machine_rates(), open_weights(bench.weights).settings.decoder
    width, mlp = settings.hidden_size, settings.mlp_size
    per_token = 2.0 * settings.num_layers * (4 * width**2 + 2 * width * mlp)
    flops = per_token * bench.prompt_tokens + 2.0 * settings.num_rows * width
    embedding = settings.num_rows * width * (4 if bench.dtype == "float32" else 2)
    read = found["weights_bytes"] - embedding
    best_rate = max(rates[f"{name}_flops"] for name in ("float32", "bfloat16"))
    best_bandwidth = max(value for name, value in rates.items() if name.endswith("bytes_per_s"))
    prefill_s, pass_s = flops / best_rate, read / best_bandwidth
    per_pass = max(1.0, found["tokens_per_pass"])
    return {
        "prefill_s": prefill_s,
        "token_s": pass_s / per_pass,
        "prefill_share": prefill_s / measured["prefill_s"],
        "token_share": pass_s / per_pass / measured["decode_s"],
    }


def loading(bench: Bench) -> list[Row]:
    """Measure loading up to the first token of a prompt of one id, and the memory it takes."""
    rounds = []
    for number in range(bench.options.rounds):
        sides = ["transformers", "ours"] if number % 2 == 0 else ["ours", "transformers"]
        rounds.append({side: bench.side("load", side=side, prompt_tokens=1, new_tokens=1) for side in sides})
    speed = [found["transformers"]["load_s"] / found["ours"]["load_s"] for found in rounds]
    memory = [found["ours"]["peak_bytes"] / found["ours"]["weights_bytes"] for found in rounds]
    theirs = rounds[0]["transformers"]
    times = {side: statistics.median(found[side]["load_s"] for found in rounds) for side in ("ours", "transformers")}
    note = f"{times['ours']:.3g} s to {times['transformers']:.3g} s"
    peak = f"transformers {theirs['peak_bytes'] / theirs['weights_bytes']:.3g}"
    return [
        Row(name="load to first token", aim=5.0, values=speed, detail={"note": note, "seconds": times}),
        # Beside the weights of mini, what a pass and the libraries take is the larger part.
        *(
            [Row(name="peak memory / weights", aim=1.15, values=memory, at_most=True, detail={"note": peak})]
            * bench.is_full
        ),
    ]


def tokenizing(bench: Bench) -> list[Row]:
    """Measure images to codes, by the program that does."""
    options = bench.options
    if options.images is None:
        raise SystemExit("tokenize needs --images DIR (or leave it out of --rows)")
    command = [sys.executable, str(HERE / "tokenize_images.py"), str(options.images), "--rounds", str(options.rounds)]
    command += ["--model", "random" if bench.is_full else "chexmix-mini", "--images", "2" if bench.is_full else "16"]
    found = bench.found["tokenize"] = last_json(command)
    rows = []
    for name, aim in (("float32", 1.3), ("bfloat16", 2.0)):
        one = found[name]
        note = f"{one['images_per_s']:.3g} images/s, {one['equal_codes']:.1%} equal codes"
        ratios = one["times_released_loop_rounds"]
        rows.append(Row(name=f"tokenizing, {name}", aim=aim, values=ratios, detail={"note": note}))
    return rows


def training(bench: Bench) -> list[Row]:
    """Measure a training step of stage 1, by the program that does."""
    shape = FULL if bench.is_full else SMALL
    pairs = bench.found["train"] = [measure_pair(shape) for _ in range(bench.options.rounds)]
    ratios = {
        name: [pair["ours"][name] / pair["transformers"][name] for pair in pairs]
        for name in ("tokens_per_s", "peak_mib")
    }
    return [
        Row(name="training step, tokens/s", aim=1.3, values=ratios["tokens_per_s"]),
        Row(name="training step, peak memory", aim=0.6, values=ratios["peak_mib"], at_most=True),
    ]


def retrieval(bench: Bench) -> list[Row]:
    """Measure ranking, by the program that does: linear in the gallery, memory far below the matrix."""
    sizes = [12_500, 25_000, 50_000, 100_000] if bench.is_full else [2000, 4000, 8000]
    found = [last_json([sys.executable, str(HERE / "retrieval.py"), "--one", str(size)]) for size in sizes]
    whole = last_json([sys.executable, str(HERE / "retrieval.py"), "--one", str(sizes[-1]), "--whole"])
    bench.found["retrieval"] = [*found, whole]
    growth = found[-1]["processor_ns_per_score"] / found[0]["processor_ns_per_score"]
    added = (whole["peak_mib"] - whole["peak_before_mib"]) / whole["matrix_would_be_mib"]
    note = f"{whole['processor_s']:.0f} s of a processor for {sizes[-1]:,} x {sizes[-1]:,}"
    return [
        Row(name="retrieval, time a score", aim=1.1, values=[growth], at_most=True, detail={"note": note}),
        Row(name="retrieval, memory / matrix", aim=0.5, values=[added], at_most=True),
    ]


def growth(bench: Bench) -> list[Row]:
    """Draw how a report's cost grows with prompt and batch, and an image's with their number."""
    found = bench.found["growth"] = bench.side("growth", new_tokens=8, rounds=bench.options.rounds)
    for name, label, part, what in (
        ("prompt", "tokens of the prompt", "prefill_s", "Reading one prompt"),
        ("prompt", "tokens of the prompt", "token_s", "One more token behind it"),
        ("batch", "reports decoded together", "prefill_s", "Reading the prompts of a batch"),
        ("batch", "reports decoded together", "token_s", "One more token of each report of a batch"),
        ("images", "images", "encode_s", "Images to codes, encoded together"),
    ):
        curve = Curve(
            name=f"cost-{name}-{part.partition('_')[0]}",
            title=f"{what}, {bench.options.size} size, {bench.dtype}",
            x_label=label,
            y_label="seconds",
            series=[Series(name="measured", x=[p["size"] for p in found[name]], y=[p[part] for p in found[name]])],
        )
        path = bench.options.plots / f"{curve.name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(curve_png(curve))
    return []


GROUPS: dict[str, Callable[[Bench], list[Row]]] = {
    "report": reports,
    "load": loading,
    "tokenize": tokenizing,
    "train": training,
    "retrieval": retrieval,
    "growth": growth,
}
#: More columns of ``report``.
MORE = ("drafts", *BITS)


def main() -> None:
    """Measure what is asked for; print the table and the figures."""
    options = _arguments()
    bench = Bench(options)
    rows: list[Row] = []
    for name, measure in GROUPS.items():
        if name in options.rows or (name == "report" and set(MORE) & set(options.rows)):
            rows += measure(bench)
    draw(rows, f"{options.size} size, {bench.dtype}, {options.rounds} rounds")
    asked = {name: str(value) if isinstance(value, Path) else value for name, value in vars(options).items()}
    result = {"asked": asked, "dtype": bench.dtype, "machine": machine(), "rows": [row.to_dict() for row in rows]}
    text = json.dumps({**result, **bench.found}, indent=1) + "\n"
    if options.out is None:
        sys.stdout.write(text)
    else:
        options.out.write_text(text)


def draw(rows: list[Row], title: str) -> None:
    """Print the table on stderr."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for column in ("what", "aim", "measured (range)", "met", "figures"):
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*row.cells())
    Console(stderr=True).print(table)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where random weights of full size are, or go (5.6 GB)")
    parser.add_argument("--size", choices=("mini", "full"), default="mini")
    every = [*GROUPS, *MORE]
    parser.add_argument("--rows", nargs="+", choices=every, default=[name for name in every if name != "growth"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--new-tokens", type=int, default=REPORT_TOKENS)
    parser.add_argument("--dtype", choices=("auto", "float32", "bfloat16"), default="auto")
    parser.add_argument("--images", type=Path, help="folder of pictures, for tokenize")
    parser.add_argument("--manifest", type=Path, help="with val rows, for realistic drafts")
    parser.add_argument("--films", type=int, default=32, help="of the manifest, that drafts are tried on")
    parser.add_argument("--plots", type=Path, default=Path("plots"), help="folder for growth's plots")
    parser.add_argument("-o", "--out", type=Path, help="JSON of all figures")
    return parser.parse_args()


if __name__ == "__main__":
    main()
