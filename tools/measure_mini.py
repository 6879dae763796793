"""Measure a model on the val rows of the radiograph manifest: the figures of its model card.

Usage: python tools/measure_mini.py manifest.jsonl [--weights DIR] [-o figures.json]

- Round trip: PSNR (dB, mean of images, 8-bit grey, whole square) and share of codes in use.
- Probe: logistic regression on mean-pooled hidden states, standardised on train; layer and C chosen on train patients
  by 5-fold cross-validation grouped by patient; AUROC on val, 95 % interval from 1000 bootstrap draws of patients.
- Reports: greedy; whether "pneumonia" is stated (in a sentence without "no") against the label.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from chexmix_cli.core.data.manifest import ManifestRow, read_manifest
from chexmix_cli.core.infer.embeddings import image_embeddings
from chexmix_cli.core.infer.images import ImageTokenizer
from chexmix_cli.core.infer.reports import ReportWriter
from chexmix_cli.core.settings.inference import DecodeSettings
from chexmix_cli.core.train.films import Films, load_films, stack
from chexmix_cli.core.weights import WeightsDir, open_weights

FINDING = "Pneumonia"
BATCH = 32


def main() -> None:
    """Print the figures as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--weights", default=None)
    parser.add_argument("-o", "--output", type=Path)
    arguments = parser.parse_args()
    weights = open_weights(arguments.weights)
    rows = {split: list(read_manifest(arguments.manifest, split=split)) for split in ("train", "val")}
    codes = {split: encode(weights, found) for split, found in rows.items()}
    figures: dict[str, Any] = {"model": weights.name, "fingerprint": weights.fingerprint}
    figures["round_trip"] = round_trip(weights, rows["val"], codes["val"])
    figures["probe"] = probe(weights, rows, codes)
    figures["reports"] = reports(weights, rows["val"], codes["val"])
    text = json.dumps(figures, indent=2)
    sys.stdout.write(text + "\n")
    if arguments.output:
        arguments.output.write_text(text + "\n", encoding="utf-8")


def tokenizer_of(weights: WeightsDir) -> ImageTokenizer:
    """Return the image tokenizer in float32."""
    return ImageTokenizer(weights.load_vqgan("cpu", torch.float32), weights.settings, batch_size=BATCH)


def films_of(weights: WeightsDir, rows: list[ManifestRow]) -> Films:
    """Return the films of rows."""
    return load_films(rows, weights.settings, lambda what, done, total: None)


def encode(weights: WeightsDir, rows: list[ManifestRow]) -> NDArray[np.int64]:
    """Return the codes of rows, (N, P)."""
    films, images = films_of(weights, rows), tokenizer_of(weights)
    parts = [
        images.encode(stack([films.exact(index) for index in range(start, min(start + BATCH, len(rows)))])).numpy()
        for start in range(0, len(rows), BATCH)
    ]
    return np.concatenate(parts)


def round_trip(weights: WeightsDir, rows: list[ManifestRow], codes_NP: NDArray[np.int64]) -> dict[str, Any]:
    """Return PSNR by dataset and code use."""
    films, images = films_of(weights, rows), tokenizer_of(weights)
    psnr: dict[str, list[float]] = {}
    for start in range(0, len(rows), BATCH):
        rebuilt_BYX = images.decode(codes_NP[start : start + BATCH]).astype(np.float64)
        for offset, picture_YX in enumerate(rebuilt_BYX):
            original_YX = (films.exact(start + offset)[0].astype(np.float64) + 1) * 127.5
            error = float(np.mean((picture_YX - original_YX) ** 2))
            psnr.setdefault(rows[start + offset].id.split("_")[0], []).append(10 * np.log10(255**2 / error))
    everything = [value for values in psnr.values() for value in values]
    return {
        "n": len(rows),
        "psnr_db": float(np.mean(everything)),
        "psnr_db_by_dataset": {name: float(np.mean(values)) for name, values in psnr.items()},
        "codes_in_use": len(np.unique(codes_NP)) / weights.settings.vocabulary.num_codes,
    }


def probe(
    weights: WeightsDir, rows: dict[str, list[ManifestRow]], codes: dict[str, NDArray[np.int64]]
) -> dict[str, Any]:
    """Return the pneumonia probe of each dataset that has the label."""
    decoder = weights.load_decoder("cpu", torch.float32)
    states = {
        split: np.concatenate(
            [
                image_embeddings(decoder, weights.settings.vocabulary, found[start : start + BATCH].tolist()).numpy()
                for start in range(0, len(found), BATCH)
            ]
        )
        for split, found in codes.items()
    }
    result: dict[str, Any] = {}
    for dataset in ("kermany", "nih"):
        chosen = {
            split: [
                index
                for index, row in enumerate(found)
                if row.id.startswith(dataset) and row.labels.get(FINDING) in (0, 1)
            ]
            for split, found in rows.items()
        }
        label = {split: np.array([rows[split][index].labels[FINDING] for index in chosen[split]]) for split in rows}
        patients = {split: np.array([rows[split][index].patient for index in chosen[split]]) for split in rows}
        train_NLD, val_NLD = states["train"][chosen["train"]], states["val"][chosen["val"]]
        layer, c = choose(train_NLD, label["train"], patients["train"])
        fitted = pipeline(c).fit(train_NLD[:, layer], label["train"])
        score = fitted.predict_proba(val_NLD[:, layer])[:, 1]
        result[dataset] = {
            "layer": layer,
            "c": c,
            "n_positive": int(label["val"].sum()),
            "n_negative": int((1 - label["val"]).sum()),
            "auroc": float(roc_auc_score(label["val"], score)),
            "auroc_95": interval(label["val"], score, patients["val"]),
        }
    return result


def pipeline(c: float) -> Any:
    """Return the probe."""
    return make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=1000))


def choose(states_NLD: NDArray[np.float32], label_N: NDArray[Any], patient_N: NDArray[Any]) -> tuple[int, float]:
    """Return the layer and C of best cross-validated AUROC on train patients."""
    best = (-1.0, 0, 1.0)
    for layer in range(1, states_NLD.shape[1]):
        for c in (0.001, 0.01, 0.1):
            score_N = cross_val_predict(
                pipeline(c), states_NLD[:, layer], label_N, groups=patient_N, cv=GroupKFold(5), method="predict_proba"
            )[:, 1]
            best = max(best, (float(roc_auc_score(label_N, score_N)), layer, c))
    return best[1], best[2]


def interval(label_N: NDArray[Any], score_N: NDArray[Any], patient_N: NDArray[Any]) -> list[float]:
    """Return the 2.5th and 97.5th percentile of AUROC over bootstrap draws of patients."""
    rng = np.random.default_rng(0)
    members = [np.flatnonzero(patient_N == patient) for patient in np.unique(patient_N)]
    values = []
    for _ in range(1000):
        drawn = np.concatenate([members[index] for index in rng.integers(0, len(members), len(members))])
        if 0 < label_N[drawn].sum() < len(drawn):
            values.append(roc_auc_score(label_N[drawn], score_N[drawn]))
    return [float(value) for value in np.percentile(values, [2.5, 97.5])]


def states_pneumonia(report: str) -> bool:
    """Tell whether a sentence speaks of pneumonia without a "no"."""
    sentences = re.split(r"(?<=\.)\s", report.lower())
    return any("pneumonia" in sentence and not re.search(r"\bno\b", sentence) for sentence in sentences)


def reports(weights: WeightsDir, rows: list[ManifestRow], codes_NP: NDArray[np.int64]) -> dict[str, Any]:
    """Return how often generated reports state pneumonia where the label does, by dataset."""
    vocabulary = weights.settings.vocabulary
    writer = ReportWriter(weights.load_decoder("cpu", torch.float32), vocabulary, weights.load_text_tokenizer())
    texts: list[str] = []
    for start in range(0, len(rows), BATCH):
        found = writer.write(codes_NP[start : start + BATCH].tolist(), DecodeSettings())
        texts += [report.text or "" for report in found]
    result: dict[str, Any] = {
        "distinct": len(set(texts)),
        "n": len(texts),
        "mean_characters": np.mean([*map(len, texts)]),
    }
    for dataset in ("kermany", "nih"):
        pairs = [
            (row.labels[FINDING] == 1, states_pneumonia(text))
            for row, text in zip(rows, texts, strict=True)
            if row.id.startswith(dataset) and row.labels.get(FINDING) in (0, 1)
        ]
        hits = sum(label and stated for label, stated in pairs)
        stated, labelled = sum(stated for _, stated in pairs), sum(label for label, _ in pairs)
        result[dataset] = {
            "n": len(pairs),
            "sensitivity": hits / labelled,
            "specificity": sum(not label and not said for label, said in pairs) / (len(pairs) - labelled),
            "f1": 2 * hits / (stated + labelled),
            "f1_always_stated": 2 * labelled / (len(pairs) + labelled),
        }
    return result


if __name__ == "__main__":
    main()
