"""The embedded model on a real chest film, as `make demo` runs it."""

from __future__ import annotations

import json
from pathlib import Path

import data_store
import numpy as np
import pytest
from PIL import Image

FILMS = Path(data_store.__file__).parent / "data"


def test_a_real_film_gets_a_report_and_a_picture(call, tmp_path):
    result = call("generate-report", FILMS / "RG1_J2KR.dcm", "--picture", tmp_path / "report.png", "--provenance")
    assert result.code == 0, result.stderr
    (record,) = result.records
    assert record["view"] == "PA"
    assert record["report"].startswith("FINDINGS: ")
    assert "\nIMPRESSION: " in record["report"]
    assert record["finish"] in ("end", "next_image")
    assert record["provenance"]["model"] == "chexmix-mini"
    with Image.open(tmp_path / "report.png") as picture:
        assert picture.width > 800


def test_reports_differ_with_the_image_and_end_by_themselves(call, shared):
    rows = [json.loads(line) for line in (shared / "data/radiographs/index.jsonl").read_text().splitlines()]
    chosen = [row for row in rows if row["split"] == "val"][::60]
    files = [shared / "data/radiographs" / row["file"] for row in chosen]
    records = call("generate-report", *files).records
    assert len({record["report"] for record in records}) > len(records) / 2
    ended = sum(record["finish"] in ("end", "next_image") for record in records)
    assert ended >= 0.9 * len(records)


def test_the_round_trip_keeps_a_film_recognisable(call):
    """Better than a grey square by far: at least 10 dB over the film's own mean."""
    from chexmix_cli.core.data.presets import resolve_preset
    from chexmix_cli.core.data.studies.inputs import discover, load_pixels
    from chexmix_cli.core.evals.metrics.images import psnr_db
    from chexmix_cli.core.infer.image_tokenizer import ImageTokenizer
    from chexmix_cli.core.settings.inference import InputSettings
    from chexmix_cli.core.weights import open_weights

    torch = pytest.importorskip("torch")
    weights = open_weights(None)
    (study,) = discover([str(FILMS / "RG1_J2KR.dcm")], InputSettings())
    pixels, _ = load_pixels(study.chosen, resolve_preset("model", weights.settings.image, 1))
    images = ImageTokenizer(weights.load_vqgan("cpu", torch.float32), weights.settings)
    rebuilt = images.decode(images.encode(pixels[None]))[0]
    original = (pixels[0] + 1) * 127.5
    rebuilt_db = psnr_db(original, rebuilt)
    flat_db = psnr_db(original, np.full_like(original, original.mean()))
    assert rebuilt_db is not None
    assert flat_db is not None
    assert rebuilt_db > flat_db + 10


def test_the_four_encodings_of_one_film_give_nearly_the_same_codes(call):
    """R is the film as it was, I after a lossy round trip through JPEG 2000; each stored plain and compressed."""

    def codes(name):
        return np.array(call("tokenize", FILMS / f"RG1_{name}.dcm").records[0]["codes"])

    lossless, lossy = codes("UNCR"), codes("UNCI")
    assert np.array_equal(lossless, codes("J2KR"))
    assert np.mean(lossy == codes("J2KI")) > 0.9
    assert np.mean(lossless == lossy) > 0.9


def test_findings_come_out_of_the_box_with_what_validation_showed(call):
    from chexmix_cli.core.infer.classification.heads import Head
    from chexmix_cli.core.weights import open_weights

    result = call("classify", FILMS / "RG1_J2KR.dcm")
    assert result.code == 0, result.stderr
    (record,) = result.records
    weights = open_weights(None)
    head = Head.load(weights.path / "head.safetensors")
    head.require_model(weights.fingerprint, "the embedded head")
    assert "Pneumonia" in head.labels
    assert list(record["probabilities"]) == list(head.labels)
    assert all(0 < value < 1 for value in record["probabilities"].values())
    assert record["val_auroc"] == {label: known.auroc for label, known in head.validation.items()}
    assert all(min(known.positives, known.negatives) >= 10 for known in head.validation.values())


def test_films_of_children_with_and_without_pneumonia_are_told_apart(call, shared):
    rows = [json.loads(line) for line in (shared / "data/radiographs/index.jsonl").read_text().splitlines()]
    chosen = [row for row in rows if row["split"] == "val" and row["dataset"] == "kermany"][::25]
    files = [shared / "data/radiographs" / row["file"] for row in chosen]
    found = [record["probabilities"]["Pneumonia"] for record in call("classify", *files).records]
    is_ill = np.array(["Pneumonia" in row["labels"] for row in chosen])
    assert 3 <= is_ill.sum() <= len(chosen) - 3
    assert np.median(np.array(found)[is_ill]) > 0.8 > 0.5 > np.median(np.array(found)[~is_ill])
