"""Measure weights as docs/results.md reports them: one command of the toolkit a figure, one result file a command.

    python tools/measure_arms.py manifest.jsonl --weights runs/arms/seed0/s2-both --out results/seed0-s2-both

Written into ``--out`` (what is there already is kept), each but the first by the ``chexmix evaluate`` that
:func:`command` names:

- ``roundtrip.json``: of all val films through the codes, PSNR (dB, mean of films, 8-bit grey, whole square) and the
  share of codes in use; no command says both.
- ``kermany.json``, ``nih.json``: AUROC of pneumonia with tokens masked, probes of the image's mean state fitted on
  train rows of the same source; ``kermany-grid.json``, ``nih-grid.json``: the same with probes of 4 x 4 means.
- ``opacity-grid.json``, ``normal-grid.json``: AUROC of the RSNA radiologists' class Lung Opacity among NIH films they
  read, against all others and against Normal alone; probes of 4 x 4 means fitted on train rows of the same kind.
- ``inpainting.json``: leak-free, ``--films`` val films.
- ``retrieval.json``: image-report retrieval by labels, val rows.
- ``reports.json``: generated reports against the template reports, ``--films`` times three val films; and, of the same
  films, what reports have to beat: ``majority.json`` (the commonest train report of one source), ``nearest.json`` (the
  report of the train film that looks most alike, by cosine of pixels) and ``probe.json`` (a report written from what
  the probe of ``head.safetensors`` says; only where the weights have that head).

``--only`` picks. Rows of the val split alone are scored; train rows fit probes.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from chexmix_cli.core.data.manifest import ManifestRow, read_manifest
from chexmix_cli.core.files import write_text
from chexmix_cli.core.infer.classification.heads import Head
from chexmix_cli.core.infer.image_tokenizer import ImageTokenizer
from chexmix_cli.core.text.phrases import CAUSES, NO_FINDING
from chexmix_cli.core.text.templates import UNIVERSES, write_report
from chexmix_cli.core.train.examples.films import manifest_films, stack
from chexmix_cli.core.weights import open_weights

#: Data sets of the parts of classification, as patients' names have them.
SOURCES = {"kermany": "kermany", "nih": "nih14", "opacity": "nih14", "normal": "nih14"}
_OPACITY = "Lung Opacity"
_REPORTS = ("reports", "majority", "nearest", "probe")
_MASKED = ("kermany", "nih", "kermany-grid", "nih-grid", "opacity-grid", "normal-grid")
PARTS = ("roundtrip", *_MASKED, "inpainting", "retrieval", *_REPORTS)
_GRID = 4
_SIDE_PX, _BATCH = 32, 32


def label_of(source: str) -> str:
    """Return the finding that a part of classification asks for."""
    return _OPACITY if source in ("opacity", "normal") else "Pneumonia"


def command(part: str, folder: Path, options: argparse.Namespace) -> list[str]:
    """Return the command that gives the result of a part."""
    weights = ["--weights", options.weights] if options.weights else []
    weights += ["--dtype", options.dtype] if options.dtype else []
    source = part.removesuffix("-grid")
    if source in SOURCES:
        rows = f"fit.sweep_rows={options.rows if source == 'kermany' else 0}"
        settings = [f'labels.names=["{label_of(source)}"]', rows, "sweep.seeds=1", "sweep.by_label=true"]
        settings += [f"probe.grid={_GRID}"] if part != source else []
        if options.head is not None:  # nothing is fitted
            settings = [one for one in settings if not one.startswith(("fit.", "probe."))]
        found = ["evaluate", "classification", "--manifest", str(folder / f"{source}.jsonl"), "--split", "val"]
        found += ["--mask-ratio", options.ratios, *(["--tokens", str(options.tokens)] if options.tokens else [])]
        found += ["--head", str(options.head)] if options.head is not None else []
    elif part == "inpainting":
        settings = [f"images={options.films}", "masks.ring=0", 'methods.strategies=["single"]']
        found = ["evaluate", "inpainting", "--manifest", str(folder / "all.jsonl"), "--split", "val"]
    elif part == "retrieval":
        settings = []
        found = ["evaluate", "retrieval", "--manifest", str(folder / "all.jsonl"), "--split", "val"]
    else:
        found = ["evaluate", "report", str(folder / f"{part}.predictions.jsonl")]
        return [*found, "--references", str(folder / "films.jsonl")]
    return [*found, *weights, *(part for setting in settings for part in ("--set", setting))]


def run(arguments: Sequence[str], output: Path, stdin: Path | None = None) -> None:
    """Run a command of the toolkit; its result is there whole or not at all."""
    partial = output.with_name(output.name + ".partial")
    print("chexmix " + " ".join(arguments), file=sys.stderr, flush=True)
    source = None if stdin is None else stdin.open("rb")
    with partial.open("wb") as file:
        subprocess.run([sys.executable, "-m", "chexmix_cli", *arguments], stdin=source, stdout=file, check=True)
    partial.replace(output)


def round_trip(weights: Any, rows: Sequence[ManifestRow]) -> dict[str, Any]:
    """Return PSNR, of all films and by source, and code use."""
    films = manifest_films(rows, weights.settings)
    images = ImageTokenizer(weights.load_vqgan("cpu", torch.float32), weights.settings, batch_size=_BATCH)
    psnr: dict[str, list[float]] = {}
    used: set[int] = set()
    for start in range(0, len(rows), _BATCH):
        places = range(start, min(start + _BATCH, len(rows)))
        codes_BP = images.encode(stack([films.exact(place) for place in places]))
        used |= set(codes_BP.unique().tolist())
        for place, picture_YX in zip(places, images.decode(codes_BP).astype(np.float64), strict=True):
            original_YX = (films.exact(place)[0].astype(np.float64) + 1) * 127.5
            error = float(np.mean((picture_YX - original_YX) ** 2))
            psnr.setdefault(source_of(rows[place]), []).append(10 * np.log10(255**2 / error))
    return {
        "n": len(rows),
        "psnr_db": float(np.mean([value for values in psnr.values() for value in values])),
        "psnr_db_by_source": {name: float(np.mean(values)) for name, values in psnr.items()},
        "codes_in_use": len(used) / weights.settings.vocabulary.num_codes,
    }


def write_rows(path: Path, rows: Iterable[ManifestRow]) -> None:
    """Write rows of a manifest, with whole paths."""
    lines = []
    for row in rows:
        values: dict[str, Any] = {
            "id": row.id,
            "file": str(Path(row.file).resolve()),
            "patient": row.patient,
            "view": row.view,
        }
        values |= {"split": row.split, "labels": dict(row.labels)}
        values |= {"findings": row.findings, "impression": row.impression}
        lines.append(json.dumps(values) + "\n")
    write_text(path, "".join(lines))


def film_rows(rows: Sequence[ManifestRow], count: int) -> list[ManifestRow]:
    """Return rows spread evenly over a split, which lists one source after the other."""
    places = np.unique(np.linspace(0, len(rows) - 1, min(count, len(rows))).round().astype(int))
    return [rows[place] for place in places]


def source_of(row: ManifestRow) -> str:
    """Return the data set of a row."""
    return (row.patient or "").split(":")[0]


def belongs(row: ManifestRow, part: str) -> bool:
    """Return whether a film is one of a part of classification; changed copies of films are of none."""
    if source_of(row) != SOURCES[part] or row.id.partition(".")[2]:
        return False
    opacity, is_normal = row.labels.get(_OPACITY), row.labels.get(NO_FINDING) == 1
    if part == "opacity":
        return opacity is not None
    return part != "normal" or opacity == 1 or (opacity == 0 and is_normal)


def majority(train: Sequence[ManifestRow], films: Sequence[ManifestRow]) -> dict[str, str]:
    """Return a report for each film: of its source, a train report of the commonest set of findings."""
    reports = {}
    for source in {source_of(row) for row in films}:
        rows = [row for row in train if source_of(row) == source]
        present = [tuple(name for name, value in sorted(row.labels.items()) if value == 1) for row in rows]
        commonest = Counter(present).most_common(1)[0][0]
        reports[source] = next(row.report for row, found in zip(rows, present, strict=True) if found == commonest)
    return {row.id: reports[source_of(row)] or "" for row in films}


def nearest(train: Sequence[ManifestRow], films: Sequence[ManifestRow], weights: Any) -> dict[str, str]:
    """Return for each film the report of the train film whose pixels are most alike."""
    vectors = [pixel_vectors(rows, weights) for rows in (train, films)]
    places = (vectors[1] @ vectors[0].T).argmax(axis=1)
    return {row.id: train[place].report or "" for row, place in zip(films, places, strict=True)}


def pixel_vectors(rows: Sequence[ManifestRow], weights: Any) -> NDArray[np.float32]:
    """Return small pictures of films as unit vectors, each without its mean."""
    films = manifest_films(rows, weights.settings)
    found = []
    for index in range(len(rows)):
        pixels_YX = films.exact(index)[0]
        side = len(pixels_YX) // _SIDE_PX
        small = pixels_YX.reshape(_SIDE_PX, side, _SIDE_PX, side).mean(axis=(1, 3)).ravel()
        small -= small.mean()
        found.append(small / np.linalg.norm(small))
    return np.stack(found)


def probed(films: Sequence[ManifestRow], weights: Any) -> dict[str, str]:
    """Return for each film a report of the findings whose probability reaches the head's thresholds.

    Only findings the film's source looks for are taken, as its references have no others.
    """
    from chexmix_cli.core.infer.embeddings import image_embeddings

    head = Head.load(weights.path / "head.safetensors")
    decoder = weights.load_decoder("cpu", torch.float32)
    loaded = manifest_films(list(films), weights.settings)
    images = ImageTokenizer(weights.load_vqgan("cpu", torch.float32), weights.settings, batch_size=16)
    reports = {}
    for index, row in enumerate(films):
        codes = images.encode(stack([loaded.exact(index)])).tolist()
        state_1LD = image_embeddings(decoder, weights.settings.vocabulary, codes, layers=[head.layer], grid=head.grid)
        prob_K = head.probabilities(state_1LD[:, 0].numpy())[0]
        universe = UNIVERSES[source_of(row)]
        named = [name for name, prob, least in zip(head.labels, prob_K, head.threshold_K, strict=True) if prob >= least]
        found = {name for name in named if name in universe and name != NO_FINDING}
        if found <= set(CAUSES) and found:
            found.add("Pneumonia")
        if "Pneumonia" in found and set(CAUSES) <= found:
            scores = dict(zip(head.labels, prob_K, strict=True))
            found.discard(min(CAUSES, key=lambda name: scores[name]))
        labels = found or ({NO_FINDING} if NO_FINDING in universe else set(universe))
        parts = write_report(labels, universe=universe, view=row.view, age_group=None, rng=random.Random(row.id))
        reports[row.id] = " ".join(parts)
    return reports


def predictions(part: str, folder: Path, rows: Mapping[str, list[ManifestRow]], options: argparse.Namespace) -> bool:
    """Write the reports of a part; return False if the weights cannot make them."""
    path = folder / f"{part}.predictions.jsonl"
    if path.is_file():
        return True
    films = list(read_manifest(folder / "films.jsonl", split="val"))
    if part == "reports":
        arguments = ["generate-report", "-", *(["--weights", options.weights] if options.weights else [])]
        run([*arguments, "--set", "input.batch_size=16"], path, stdin=folder / "films.jsonl")
        return True
    weights = open_weights(options.weights)
    if part == "probe" and not (weights.path / "head.safetensors").is_file():
        return False
    made = {
        "majority": lambda: majority(rows["train"], films),
        "nearest": lambda: nearest(rows["train"], films, weights),
        "probe": lambda: probed(films, weights),
    }[part]()
    write_text(path, "".join(json.dumps({"id": key, "report": text}) + "\n" for key, text in made.items()))
    return True


def main(arguments: list[str] | None = None) -> int:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--weights", help="default: the embedded model")
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="of evaluations; default: the commands' own")
    parser.add_argument("--tokens", type=Path, help="token shards of the manifest, for classification")
    parser.add_argument("--head", type=Path, help="measure this head of the weights; no probe is fitted")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, metavar="PART")
    parser.add_argument("--ratios", default="0,0.2,0.4,0.6,0.8", help="shares masked")
    parser.add_argument(
        "--rows", type=int, default=1500, help="Kermany's train rows that probes are fitted on; NIH: all"
    )
    parser.add_argument("--films", type=int, default=48, help="val films that are inpainted")
    options = parser.parse_args(arguments)
    folder = options.out
    folder.mkdir(parents=True, exist_ok=True)
    rows = {split: list(read_manifest(options.manifest, split=split)) for split in ("train", "val")}
    everything = [*rows["train"], *rows["val"]]
    write_rows(folder / "all.jsonl", everything)
    for name in SOURCES:
        write_rows(folder / f"{name}.jsonl", (row for row in everything if belongs(row, name)))
    write_rows(folder / "films.jsonl", film_rows(rows["val"], 3 * options.films))
    for part in options.only:
        output = folder / f"{part}.json"
        is_report = part in _REPORTS
        if output.is_file() or (is_report and not predictions(part, folder, rows, options)):
            continue
        if part == "roundtrip":
            write_text(output, json.dumps(round_trip(open_weights(options.weights), rows["val"])) + "\n")
        else:
            run(command(part, folder, options), output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
