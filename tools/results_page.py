"""Bring together what ``tools/measure_arms.py`` measured: docs/results.json, the tables of docs/results.md, its plots.

    python tools/results_page.py collect RESULTS     # RESULTS/NAME/*.json -> docs/results.json; other names stay
    python tools/results_page.py sizes RUNS          # RUNS/ARM/{settings.json,metrics.jsonl} -> docs/results.json
    python tools/results_page.py write               # docs/results.json -> tables and plots

``NAME`` is an arm, such as ``seed0-s2-both``, or ``chexmix-mini`` for the embedded model; ``RUNS`` is what
``train_arms.py --study sizes`` wrote for one seed. A table stands in the page between ``<!-- NAME -->`` and ``<!-- end
-->``; tests/unit/test_results_page.py holds page and file together.

Differences between two arms are of the same films under the same masks: AUROC of one less that of the other, mean of
the seeds that both have, with the 95 % interval of a paired bootstrap over patients, 1,000 draws, and the difference of
each seed. The interval knows nothing of seeds. Seeds that are collected apart stay apart.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from results_tables import FILLS, plots, tables

from chexmix_cli.core.evals.metrics.binary import RankedScores
from chexmix_cli.core.evals.metrics.bootstrap import paired_difference
from chexmix_cli.core.models.decoder import Decoder
from chexmix_cli.core.models.meta import on_meta_device
from chexmix_cli.core.settings.load import build
from chexmix_cli.core.settings.model import DecoderSettings
from chexmix_cli.core.train.flop import decoder_flop

DOCS = Path(__file__).parent.parent / "docs"
SOURCES = ("kermany", "nih", "kermany-grid", "nih-grid", "opacity-grid", "normal-grid")
_LABELS = "(?:Pneumonia|Lung Opacity)"
#: Pairs whose difference is tested: does the first do better than the second?
PAIRS = (
    ("s2-paper", "s1-more"),
    ("s2-both", "s1-more"),
    ("s2-both", "s2-paper"),
    ("s2-only", "s2-both"),
    ("s2-both-masked", "s2-both"),
    ("s2-both-image", "s2-both"),
    ("s2-both-high", "s2-both"),
    ("mini-s2", "mini-s1-more"),
)
PIXELS = "pixels-pca100"

Numbers = dict[str, Any]


def collect(folder: Path) -> Numbers:
    """Return the numbers of every result below a folder."""
    arms = {path.name: _arm(path) for path in sorted(folder.iterdir()) if path.is_dir()}
    found: Numbers = {"arms": arms, "differences": {}}
    seeds = sorted({name.split("-")[0] for name in arms if name.startswith("seed")})
    for first, second in PAIRS:
        pairs = {seed: (f"{seed}-{first}", f"{seed}-{second}") for seed in seeds}
        there = {seed: pair for seed, pair in pairs.items() if arms.keys() >= {*pair}}
        if made := _differences(folder, list(there.values())):
            # One of a single seed stands by itself: another seed's may come later, from another machine.
            found["differences"][f"{first} - {second}" + (f", {[*there][0]}" if len(there) == 1 else "")] = made
    return found


def sizes(folder: Path) -> Numbers:
    """Return arm -> shape, parameters, documents read, operations of learning and validation losses (nats a target)."""
    found: Numbers = {}
    for path in sorted(folder.glob("*/settings.json")):
        settings = json.loads(path.read_text(encoding="utf-8"))
        lines = path.with_name("metrics.jsonl").read_text(encoding="utf-8").splitlines()
        records = [json.loads(line) for line in lines]
        speed = next(record for record in records if "tokens_per_s" in record)
        tokens = speed["tokens_per_s"] / speed["examples_per_s"]
        with on_meta_device():
            decoder = Decoder(build(DecoderSettings, settings["model"]["decoder"]))
        flop, documents = decoder_flop(decoder), settings["train"]["steps"] * settings["train"]["batch_size"]
        a_document = flop.per_token * tokens + flop.per_pair * tokens * (tokens + 1) / 2 + flop.per_target * tokens
        last = next(record for record in reversed(records) if "val_loss" in record)
        found[path.parent.name] = {
            "layers": decoder.settings.num_layers,
            "width": decoder.settings.hidden_size,
            "parameters": sum(parameter.numel() for parameter in decoder.parameters()),
            "documents": documents,
            "operations": float(f"{documents * a_document:.3g}"),
            **{name: round(last[name], 4) for name in ("val_loss", "val_loss_image", "val_loss_text")},
        }
    return {"sizes": found}


def _arm(path: Path) -> Numbers:
    found: Numbers = {}
    if (result := _read(path / "roundtrip.json")) is not None:
        found["roundtrip"] = result
    for source in SOURCES:
        if (result := _read(path / f"{source}.json")) is not None:
            found[source] = _masking(result)
    if (result := _read(path / "inpainting.json")) is not None:
        found["inpainting"] = _inpainting(result)
    if (result := _read(path / "retrieval.json")) is not None:
        found["retrieval"] = _retrieval(result)
    for part in ("reports", "majority", "nearest", "probe"):
        if (result := _read(path / f"{part}.json")) is not None:
            found[part] = _reports(result)
    if (result := _read(path / "cnn.json")) is not None:
        found |= _network(result)
    return found


def _read(path: Path) -> Numbers | None:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def _value(measured: Numbers) -> list[float | None]:
    low, high = measured["interval"] or (None, None)
    return [None if value is None else round(value, 4) for value in (measured["value"], low, high)]


def _masking(result: Numbers) -> Numbers:
    """Return features -> probe -> ratio -> AUROC of pneumonia with its interval, and the protocol."""
    found: Numbers = {}
    for one in result["metrics"]:
        fields = one["fields"]
        if one["name"] != "auroc" or fields.get("label") not in ("Pneumonia", "Lung Opacity") or "ratio" not in fields:
            continue
        features = "pixels" if fields["features"] == PIXELS else "model"
        found.setdefault(features, {}).setdefault(fields["probe"], {})[fields["ratio"]] = _value(one)
        if features == "model":
            found["layer"] = fields["features"]
        found["train"], found["n"] = fields["train"], one["n"]
    return found


def _network(result: Numbers) -> Numbers:
    """Return part -> AUROCs of the plain CNN, in the form of :func:`_masking`; it stands beside the grids."""
    found: Numbers = {}
    for one in result["auroc"]:
        part = found.setdefault(f"{one['part']}-grid", {"model": {}, "n": one["n"]})
        measured = {"value": one["auroc"], "interval": one["interval"]}
        part["model"].setdefault(one["trained"], {})[f"{one['ratio']:g}"] = _value(measured)
    return found


def _inpainting(result: Numbers) -> Numbers:
    """Return pattern and ratio -> method and join -> PSNR of the hidden part."""
    found: Numbers = {}
    for one in result["metrics"]:
        fields = one["fields"]
        if one["name"] != "psnr" or fields.get("region") != "masked" or fields.get("against") != "original":
            continue
        method = fields["method"]
        name = method if method in (*FILLS, "ceiling") else f"{method}, {fields['join']}"
        found.setdefault(f"{fields['pattern']} {fields['ratio']}", {})[name] = _value(one)
        found["n"] = one["n"]
    return found


def _retrieval(result: Numbers) -> Numbers:
    """Return direction and depth -> recall by labels with its interval, and what a random order gives."""
    found: Numbers = {}
    for one in result["metrics"]:
        fields = one["fields"]
        if one["name"] in ("R@1", "R@5", "R@10") and fields["relevance"] == "labels" and "seeds" not in fields:
            key = f"{fields['direction']} {one['name']}"
            part = found.setdefault("random" if fields["scorer"] == "random" else "model", {})
            part[key], found["n"] = _value(one), one["n"]
    return found


def _reports(result: Numbers) -> Numbers:
    found: Numbers = {}
    for one in result["metrics"]:
        fields = one["fields"]
        if one["name"] == "self_contradiction" and fields["of"] == "predictions":
            found["contradicting"] = _value(one)
        if one["name"] != "label_f1" or fields.get("unc") != "pos":
            continue
        if fields.get("finding") == "Pneumonia":
            found["pneumonia"] = _value(one)
        elif fields.get("avg") == "micro" and fields.get("set") == "14":
            found["micro"] = _value(one)
        found["n"] = one["n"]
    return found


def _differences(folder: Path, pairs: Sequence[tuple[str, str]]) -> Numbers:
    """Return source -> probe -> ratio -> ``value``, with its interval, and ``seeds``, of the seeds that are there."""
    found: Numbers = {}
    for source in SOURCES:
        read = [[_read(folder / name / f"{source}.json") for name in pair] for pair in pairs]
        seeds = [[one for one in results if one is not None] for results in read if None not in results]
        if not seeds:
            continue
        for probe in ("clean", "masked"):
            columns = [[_masked_columns(result, probe) for result in results] for results in seeds]
            for ratio in sorted({ratio for of_seed in columns for one in of_seed for ratio in one}, key=float):
                there = [place for place, of_seed in enumerate(columns) if all(ratio in one for one in of_seed)]
                if there:
                    names = [[one[ratio] for one in columns[place]] for place in there]
                    made = _paired([seeds[place] for place in there], names)
                    found.setdefault(source, {}).setdefault(probe, {})[ratio] = made
    return found


def _masked_columns(result: Numbers, probe: str) -> dict[str, str]:
    """Return ratio -> name of the column of the model's probabilities."""
    found = {}
    for name in result["items"]["columns"]:
        match = re.fullmatch(
            rf"probability of {_LABELS}, layer\d+(?:-grid\d+)?, fit {probe}, (unmasked|random ([\d.]+))", name
        )
        if match:
            found[match[2] or "0"] = name
    return found


def _paired(seeds: Sequence[Sequence[Numbers]], names: Sequence[Sequence[str]]) -> Numbers:
    """Return the difference of two arms; ``seeds`` has the results of both, ``names`` their columns, seed by seed.

    S seeds, N films, C columns of both arms.
    """
    tables = [[result["items"] for result in results] for results in seeds]
    first = tables[0][0]
    assert all(table["ids"] == first["ids"] for of_seed in tables for table in of_seed)
    label_N = np.array(first["columns"][next(name for name in first["columns"] if name.endswith(", masking"))], float)
    scores_NC = np.array(
        [
            table["columns"][name]
            for of_seed, columns in zip(tables, names, strict=True)
            for table, name in zip(of_seed, columns, strict=True)
        ],
        float,
    ).T
    ranked = RankedScores(scores_NC, np.repeat(label_N[:, None], scores_NC.shape[1], axis=1))

    def aurocs(index: Any) -> Any:
        counts_N = np.bincount(index, minlength=len(label_N)).astype(np.float64)
        return ranked.auroc(counts_N).reshape(len(seeds), 2)

    groups = np.array(first["groups"], np.int64)
    made = paired_difference(groups, lambda index: aurocs(index).mean(axis=0)[::-1], resamples=1000, seed=0)
    each_S2 = aurocs(np.arange(len(label_N)))
    assert made.interval is not None, "too few films of one class"
    return {
        "value": [round(float(value), 4) for value in (made.difference, *made.interval)],
        "seeds": [round(float(one - other), 4) for one, other in each_S2],
    }


def main(arguments: list[str] | None = None) -> int:
    """Collect or write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(dest="part", required=True)
    parts.add_parser("collect").add_argument("results", type=Path)
    parts.add_parser("sizes").add_argument("runs", type=Path)
    parts.add_parser("write")
    options = parser.parse_args(arguments)
    file = DOCS / "results.json"
    if options.part != "write":
        found = collect(options.results) if options.part == "collect" else sizes(options.runs)
        before = json.loads(file.read_text(encoding="utf-8"))
        text = json.dumps({part: before.get(part, {}) | found.get(part, {}) for part in before | found}, indent=1)
        text = re.sub(
            r"\[[^\[\]{}]*\]", lambda found: " ".join(found[0].split()), text
        )  # a number and its bounds: one line
        file.write_text(text + "\n", encoding="utf-8")
        return 0
    numbers = json.loads(file.read_text(encoding="utf-8"))
    page = DOCS / "results.md"
    page.write_text(filled(page.read_text(encoding="utf-8"), tables(numbers)), encoding="utf-8")
    for name, content in plots(numbers).items():
        (DOCS / "images" / f"{name}.png").write_bytes(content)
    return 0


def filled(page: str, found: Mapping[str, str]) -> str:
    """Return the page with every named table put between its markers; ValueError if one has no place."""
    for name, table in found.items():
        page, count = re.subn(
            rf"(<!-- {name} -->\n).*?(<!-- end -->)", rf"\g<1>\n{table}\n\g<2>", page, flags=re.DOTALL
        )
        if count != 1:
            raise ValueError(f"docs/results.md has {count} places for {name}")
    return page


if __name__ == "__main__":
    sys.exit(main())
