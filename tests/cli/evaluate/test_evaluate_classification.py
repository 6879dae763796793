"""``chexmix evaluate classification`` from a manifest, with a head, and from predictions."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

FAST = ("--set", "bootstrap.resamples=100", "--set", "sweep.seeds=1", "--set", "probe.c=[0.1]")


@pytest.fixture
def manifest(tmp_path):
    """Return a manifest whose bright films have a mass, two films a patient."""
    lines = []
    for number in range(36):
        rng = np.random.default_rng(number)
        label = number // 2 % 2
        # Patches, not pixels: noise is no film and would be refused.
        patches = np.kron(rng.integers(0, 90, (8, 8)), np.ones((8, 8), int))
        picture = patches + 150 * label * (np.arange(64) > 40)
        Image.fromarray(picture.astype(np.uint8)).save(tmp_path / f"{number}.png")
        split = "train" if number < 24 else "val"
        labels = {"Mass": label, "Edema": -1 if number % 5 == 0 else number % 2, "Hernia": None}
        row = {"id": f"film {number}", "patient": f"p{number // 2}", "file": f"{number}.png", "split": split}
        lines.append(json.dumps({**row, "labels": labels}))
    path = tmp_path / "films.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path


def metric(record, name, label, **fields):
    return next(
        one
        for one in record["metrics"]
        if one["name"] == name and one["fields"]["label"] == label and fields.items() <= one["fields"].items()
    )


def test_a_probe_is_fitted_and_the_sweep_runs_on_nested_masks(call, manifest, debug_weights, tmp_path):
    common = ("--manifest", manifest, "--weights", debug_weights, *FAST)
    page, plots = tmp_path / "page.html", tmp_path / "plots"
    done = call("evaluate", "classification", *common, "--mask-ratio", "0,0.5", "--html", page, "--plots", plots)
    assert done.code == 0, done.stderr
    (record,) = done.records
    assert record["task"] == "classification"
    assert record["data"]["split"] == "val"
    assert record["data"]["train_rows"] == 24
    assert record["model"]["name"]
    assert metric(record, "auroc", "Hernia")["reason"] == "0 patients with it, 0 without, to fit on"
    assert metric(record, "auroc", "Mass")["fields"]["fit"] == "ignore"
    assert {one["fields"].get("policy") for one in record["metrics"]} == {"ignore", "zeros", "ones", "mixed"}
    for features in ("pixels-pca100", metric(record, "auroc", "Mass")["fields"]["features"]):
        for probe in ("clean", "masked"):
            assert metric(record, "auroc-mask-area", "macro", features=features, probe=probe)["value"] > 0
    assert sorted(path.name for path in plots.iterdir()) == [
        "calibration.png",
        "masking-random.png",
        "precision-recall.png",
        "roc.png",
    ]
    assert "surest hits" in page.read_text()
    assert "data:image/png" in page.read_text()
    again = call("evaluate", "classification", *common, "--mask-ratio", "0,0.5")
    assert again.stdout == done.stdout


def test_a_head_is_evaluated_without_a_fit_and_refused_for_another_model(call, manifest, debug_weights, tmp_path):
    from chexmix_cli.core.weights import open_weights
    from tests.unit.infer.classification.test_heads import make_head

    weights = open_weights(debug_weights)
    hidden = weights.settings.decoder.hidden_size
    head = make_head(2, hidden, labels=("Mass", "Effusion"), layer=1, model=weights.fingerprint)
    head.save(tmp_path / "mine.safetensors")
    common = ("--manifest", manifest, "--weights", debug_weights, *FAST)
    done = call("evaluate", "classification", *common, "--head", tmp_path / "mine.safetensors", "--mask-ratio", "0,1")
    assert done.code == 0, done.stderr
    (record,) = done.records
    assert metric(record, "auroc", "Mass")["fields"]["train"] == "head"
    assert metric(record, "auroc", "Edema")["reason"] == "the head has no such label"
    assert metric(record, "auroc", "macro", ratio="1")["value"] == pytest.approx(
        0.5
    )  # all are masked: all are the same
    assert record["missing"][0]["reason"] == "with --head nothing is fitted"
    make_head(2, hidden, layer=1).save(tmp_path / "other.safetensors")
    done = call("evaluate", "classification", *common, "--head", tmp_path / "other.safetensors")
    assert done.code == 1
    assert "made for other weights" in done.stderr
    assert "chexmix finetune" in done.stderr


def test_probes_and_heads_can_read_a_grid_of_means(call, manifest, debug_weights, tmp_path):
    from chexmix_cli.core.weights import open_weights
    from tests.unit.infer.classification.test_heads import make_head

    common = ("--manifest", manifest, "--weights", debug_weights, *FAST)
    done = call("evaluate", "classification", *common, "--mask-ratio", "0,0.5", "--set", "probe.grid=2")
    assert done.code == 0, done.stderr
    found = {one["fields"]["features"] for one in done.records[0]["metrics"] if "features" in one["fields"]}
    assert len(found) == 2
    assert "pixels-pca100" in found
    (features,) = found - {"pixels-pca100"}
    assert features.endswith("-grid2")
    whole = call("evaluate", "classification", *common, "--mask-ratio", "0,0.5").records[0]
    pixels = {"features": "pixels-pca100", "ratio": "0.5", "probe": "masked"}
    assert metric(done.records[0], "auroc", "macro", **pixels) == metric(whole, "auroc", "macro", **pixels)
    weights = open_weights(debug_weights)
    head = make_head(1, 4 * weights.settings.decoder.hidden_size, labels=("Mass",), layer=1, grid=2)
    replace(head, model=weights.fingerprint).save(tmp_path / "grid.safetensors")
    done = call("evaluate", "classification", *common, "--head", tmp_path / "grid.safetensors")
    assert done.code == 0, done.stderr
    assert metric(done.records[0], "auroc", "Mass")["fields"]["features"] == "layer1-grid2"
    assert done.records[0]["data"]["head"]["pooling"] == "grid2"


def test_tokens_made_before_give_the_same_numbers_and_nothing_is_encoded(
    call, manifest, debug_weights, tmp_path, monkeypatch
):
    from chexmix_cli.core.infer.image_tokenizer import ImageTokenizer

    common = ("evaluate", "classification", "--manifest", manifest, "--weights", debug_weights, *FAST)
    common += ("--mask-ratio", "0,0.5")
    wanted = call(*common)
    lines = manifest.read_text().splitlines(keepends=True)
    tokenize = ("tokenize", "-", "--weights", debug_weights)
    assert call(*tokenize, "-o", tmp_path / "all", stdin=absolute(lines, manifest)).code == 0
    assert call(*tokenize, "-o", tmp_path / "some", stdin=absolute(lines[1:-1], manifest)).code == 0
    other = ("--image-preset", "percentile", "-o", tmp_path / "other")
    assert call(*tokenize, *other, stdin=absolute(lines, manifest)).code == 0

    def refuse(*_):
        raise AssertionError("an image is encoded")

    monkeypatch.setattr(ImageTokenizer, "encode", refuse)
    found = call(*common, "--tokens", tmp_path / "all")
    assert (found.code, found.stdout) == (0, wanted.stdout), found.stderr
    fewer = call(*common, "--tokens", tmp_path / "some")
    assert fewer.code == 3
    assert [one["id"] for one in fewer.records[0]["failed"]] == ["film 0", "film 35"]
    assert "the token shards have no codes of this image" in fewer.records[0]["failed"][0]["message"]
    refused = call(*common, "--tokens", tmp_path / "other")
    assert (refused.code, "preset_hash" in refused.stderr) == (1, True), refused.stderr


def absolute(lines, manifest):
    """Return manifest lines with whole paths, as they come on stdin."""
    rows = [json.loads(line) for line in lines]
    return "".join(json.dumps({**row, "file": str(manifest.parent / row["file"])}) + "\n" for row in rows)


def test_predictions_come_from_a_file_or_stdin(call, manifest, tmp_path):
    rows = [json.loads(line) for line in manifest.read_text().splitlines()]
    lines = [
        json.dumps({"id": row["id"], "status": "ok", "probabilities": {"Mass": 0.2 + 0.6 * row["labels"]["Mass"]}})
        for row in rows
    ]
    path = tmp_path / "predictions.jsonl"
    path.write_text("\n".join(lines))
    done = call("evaluate", "classification", path, "--manifest", manifest, *FAST[:2])
    assert done.code == 0, done.stderr
    (record,) = done.records
    assert metric(record, "auroc", "Mass")["value"] == 1.0
    assert metric(record, "auroc", "Mass")["n"] == 12
    assert record["model"] is None
    piped = call("evaluate", "classification", "-", "--manifest", manifest, *FAST[:2], stdin=path.read_text())
    assert piped.stdout == done.stdout
    fewer = call("evaluate", "classification", "-", "--manifest", manifest, *FAST[:2], stdin="\n".join(lines[:-1]))
    assert fewer.code == 3
    assert fewer.records[0]["failed"] == [{"id": "film 35", "code": "NOT_FOUND", "message": "no prediction"}]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--mask-ratio", "0,2"], 2, "--mask-ratio: '0,2'; expected numbers in 0..1"),
        (["--mask-ratio", "a"], 2, "'a' is not a number"),
        (["p.jsonl", "--mask-ratio", "0"], 2, "PRED: predictions cannot be combined with"),
        (["p.jsonl", "--tokens", "shards"], 2, "PRED: predictions cannot be combined with"),
        (["--tokens", "nowhere"], 1, "nowhere"),
        (["nowhere.jsonl"], 1, "nowhere.jsonl: cannot be read"),
        (["--split", "test"], 1, "no row of split test"),
        (["--set", "labels.fit=[]"], 2, "labels.fit"),
        (["--set", "sweep.patterns=['random','random']"], 2, "sweep.patterns"),
        (["--set", "fit.rows=-1"], 2, "fit.rows"),
        (["--set", "probe.layers=[9]"], 2, "probe.layers"),
        (["--set", "probe.grid=3"], 2, "probe.grid: is 3; expected a number that divides"),
        (["--set", "probe.components=0"], 2, "probe.components: is 0; expected a positive number"),
        (["--head", "nowhere.safetensors"], 1, "nowhere.safetensors: no head"),
    ],
)
def test_what_cannot_be_is_said(call, manifest, debug_weights, arguments, code, message):
    done = call("evaluate", "classification", *arguments, "--manifest", manifest, "--weights", debug_weights)
    assert (done.code, message in done.stderr) == (code, True), done.stderr
    assert done.stdout == ""


def test_a_manifest_without_train_rows_or_without_images_says_so(call, manifest, debug_weights):
    lines = [line for line in manifest.read_text().splitlines() if '"val"' in line]
    manifest.write_text("\n".join(lines))
    done = call("evaluate", "classification", "--manifest", manifest, "--weights", debug_weights)
    assert (done.code, "no row of split train" in done.stderr) == (1, True)
    manifest.write_text("\n".join(lines).replace(".png", ".gone").replace('"val"', '"train"', 6))
    done = call("evaluate", "classification", "--manifest", manifest, "--weights", debug_weights)
    assert (done.code, "none of 6 train images can be used" in done.stderr) == (1, True)
