"""``chexmix finetune``: every task from the command line, killed and resumed; what it exports works as --weights."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file

from chexmix_cli.core.data.manifest import read_manifest
from chexmix_cli.core.infer.classification.heads import Head
from chexmix_cli.core.infer.embeddings import image_embeddings
from chexmix_cli.core.infer.image_tokenizer import ImageTokenizer
from chexmix_cli.core.infer.retrieval.projection import Projection
from chexmix_cli.core.models.decoder import Decoder
from chexmix_cli.core.models.pooling import pooled_state
from chexmix_cli.core.settings.classification import OperatingPoint
from chexmix_cli.core.train.examples.data_identity import manifest_identity
from chexmix_cli.core.train.examples.films import manifest_films
from chexmix_cli.core.train.finetune.classify_task import mean_auroc
from chexmix_cli.core.train.finetune.contrast import recall_figures
from chexmix_cli.core.train.finetune.examples import report_sequences
from chexmix_cli.core.train.reporting.metrics import CLOCK_FIGURES
from chexmix_cli.core.vocab import Vocabulary
from chexmix_cli.core.weights import WeightsDir, open_weights

DEBUG = ("--preset", "debug")


def draw(seed: int, *, has_mass: bool) -> Image.Image:
    """Return a smooth random film; a mass is a bright disc somewhere in it."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:96, 0:96] / 96
    values = 0.2 + 0.2 * y
    for _ in range(3):
        centre_y, centre_x = rng.uniform(0.2, 0.8, 2)
        values += 0.2 * np.exp(-((y - centre_y) ** 2 + (x - centre_x) ** 2) / 0.05)
    if has_mass:
        centre_y, centre_x = rng.uniform(0.3, 0.7, 2)
        values[(y - centre_y) ** 2 + (x - centre_x) ** 2 < 0.02] = 1.0
    return Image.fromarray(np.clip(values * 255, 0, 255).astype(np.uint8))


def write_manifest(folder: Path, count: int) -> Path:
    """Write films of which every other has a mass, a third of them for validation, and their manifest."""
    folder.mkdir()
    lines: list[dict[str, Any]] = []
    for index in range(count):
        has_mass = index % 2 == 0
        draw(index, has_mass=has_mass).save(folder / f"film{index}.png")
        lines.append(
            {
                "id": f"film{index}",
                "file": f"film{index}.png",
                "patient": f"p{index}",
                "split": "val" if index % 3 == 2 else "train",
                "labels": {"Mass": int(has_mass), "Hernia": 0, "Edema": None},
                "findings": f"Case {index}: {'a mass' if has_mass else 'clear lungs'}.",
            }
        )
    path = folder / "manifest.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    return write_manifest(tmp_path / "films", 18)


def metrics(run: Path) -> list[dict[str, Any]]:
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in record.items() if key not in CLOCK_FIGURES} for record in records]


def decoder_of(weights: WeightsDir) -> tuple[Decoder, Vocabulary]:
    return weights.load_decoder("cpu", torch.float32), weights.settings.vocabulary


def val_codes(manifest: Path, weights: WeightsDir) -> list[list[int]]:
    """Return the codes of the validation films, as inference makes them."""
    rows = list(read_manifest(manifest, split="val"))
    films = manifest_films(rows, weights.settings)
    images = ImageTokenizer(weights.load_vqgan("cpu", torch.float32), weights.settings)
    return images.encode(np.stack([films.exact(index) for index in range(len(films))])).tolist()


def check_head(weights: WeightsDir, manifest: Path, records: list[dict[str, Any]]) -> None:
    """Inference with the exported head gives the AUROC that training saw."""
    head = Head.load(weights.path / "head.safetensors")
    assert (head.labels, head.layer) == (("Mass",), 2)
    head.require_model(weights.fingerprint, "the run")
    state = image_embeddings(*decoder_of(weights), val_codes(manifest, weights), layers=[2])[:, 0]
    labels = [[float(row.labels["Mass"] or 0)] for row in read_manifest(manifest, split="val")]
    found = mean_auroc(torch.from_numpy(head.logits(state.numpy())), torch.tensor(labels))
    assert found == pytest.approx(max(record["val_auroc"] for record in records if "val_auroc" in record))


def check_projection(weights: WeightsDir, manifest: Path, records: list[dict[str, Any]]) -> None:
    """Inference with the exported projections gives the ranks that training saw."""
    projection = Projection.load(weights.path, weights.settings.decoder)
    assert projection is not None
    assert (projection.layer, projection.size) == (2, 16)
    decoder, vocabulary = decoder_of(weights)
    images = image_embeddings(decoder, vocabulary, val_codes(manifest, weights), layers=[2])[:, 0]
    tokenizer = weights.load_text_tokenizer()
    assert tokenizer is not None
    reports = [tokenizer.encode(row.report or "") for row in read_manifest(manifest, split="val")]
    with torch.no_grad():
        texts = pooled_state(decoder, *report_sequences(reports, vocabulary), 2)
        figures = recall_figures(projection.image(images), projection.text(texts), torch.arange(len(reports)))
    best = max((record for record in records if "val_recall" in record), key=lambda record: record["val_recall"])
    assert figures == pytest.approx({name: best[name] for name in figures})


def test_films_in_an_archive_are_learnt_from_as_those_in_a_folder(manifest, debug_weights, tmp_path):
    """What a review page of a zip exports: ``archive.zip!member``."""
    with zipfile.ZipFile(tmp_path / "films.zip", "w") as archive:
        for film in manifest.parent.glob("*.png"):
            archive.write(film, f"sub/{film.name}")
    packed = tmp_path / "edits.jsonl"
    packed.write_text(manifest.read_text().replace('"file": "', '"file": "films.zip!sub/'))
    rows, settings = [list(read_manifest(path)) for path in (manifest, packed)], open_weights(debug_weights).settings
    plain, zipped = (manifest_films(found, settings) for found in rows)
    assert all(np.array_equal(plain.exact(index), zipped.exact(index)) for index in range(len(plain)))
    assert manifest_identity({"train": rows[0]}) == manifest_identity({"train": rows[1]})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "metric", "method"),
    [("report", "val_loss", "lora"), ("classify", "val_auroc", "full"), ("retrieve", "val_recall", "lora")],
)
def test_a_task_runs_and_its_model_loads(chexmix, call, manifest, debug_weights, tmp_path, task, metric, method):
    run = tmp_path / "run"
    base = ("finetune", "--task", task, "--method", method, *DEBUG, "--manifest", manifest, "--init", debug_weights)
    done = chexmix(*base, "--out", run)
    assert done.code == 0, done.stderr
    assert "works as --weights" in done.stderr
    records = metrics(run)
    assert [record["step"] for record in done.records] == [record["step"] for record in records]
    assert [record["step"] for record in records if "loss" in record] == [1, 2, 3, 4, 5, 6]
    assert sum(metric in record for record in records) == 2
    settings = json.loads((run / "settings.json").read_text())
    assert (settings["task"], settings["method"]) == (task, method)
    weights = open_weights(run)
    assert settings["init"] == open_weights(debug_weights).fingerprint
    assert weights.provenance["init"] == settings["init"]
    short = ("--set", "decode.max_new_tokens=8")
    result = call("generate-report", manifest.parent / "film0.png", "--weights", run, *short)
    assert result.code == 0, result.stderr
    assert result.records[0]["report"] is not None
    if task == "classify":
        assert "'Hernia' has 0 present and 12 absent in split 'train': left out" in done.stderr
        check_head(weights, manifest, records)
    if task == "retrieve":
        check_projection(weights, manifest, records)
    assert (weights.path / "adapter" / "adapter_model.safetensors").is_file() == (method == "lora")


@pytest.mark.slow
def test_an_interrupted_run_goes_on_to_the_same_figures(call, manifest, debug_weights, tmp_path, monkeypatch):
    from chexmix_cli.core.train.finetune.classify_task import LabelledBatches

    base = ("finetune", "--task", "classify", *DEBUG, "--manifest", manifest, "--init", debug_weights)
    assert call(*base, "--out", tmp_path / "whole").code == 0
    prepare, steps = LabelledBatches.prepare, []

    def interrupted(self, indices, generator, own):
        steps.append(indices)
        if len(steps) == 4:
            raise KeyboardInterrupt
        return prepare(self, indices, generator, own)

    monkeypatch.setattr(LabelledBatches, "prepare", interrupted)
    assert call(*base, "--out", tmp_path / "parts").code == 130
    monkeypatch.setattr(LabelledBatches, "prepare", prepare)
    resumed = call(*base, "--out", tmp_path / "parts", "--resume")
    assert resumed.code == 0, resumed.stderr
    assert "resumed after step" in resumed.stderr
    assert metrics(tmp_path / "parts") == metrics(tmp_path / "whole")
    other = call(*base, "--out", tmp_path / "parts", "--resume", "--set", "lora.rank=4")
    assert other.code == 1
    assert "settings differ from the checkpoint's in lora.rank" in other.stderr
    before = (tmp_path / "parts" / "settings.json").read_bytes()
    lines = [json.loads(line) for line in manifest.read_text().splitlines()]
    manifest.write_text(
        "".join(json.dumps({**line, "labels": {"Mass": 1 - line["labels"]["Mass"]}}) + "\n" for line in lines)
    )
    other = call(*base, "--out", tmp_path / "parts", "--resume")
    assert other.code == 1
    assert "the data differ from the checkpoint's in train.labels, val.labels" in other.stderr
    assert (tmp_path / "parts" / "settings.json").read_bytes() == before


@pytest.mark.slow
def test_a_probe_finds_masses_in_films_it_has_not_seen(call, tmp_path):
    """On the embedded model: films with a bright disc against films without."""
    manifest, run = write_manifest(tmp_path / "films", 36), tmp_path / "run"
    base = ("finetune", "--task", "classify", "--method", "probe", "--manifest", manifest, "--out", run)
    done = call(*base, "--set", "probe.layers=[3]")
    assert done.code == 0, done.stderr
    assert metrics(run)[-1]["val_auroc"] > 0.9
    weights, head = open_weights(None), Head.load(run / "head.safetensors")
    assert not (run / "model").exists(), "the head alone: some kilobytes to give away"
    head.require_model(weights.fingerprint, "the run")
    low, high = (head.thresholds_at(OperatingPoint("sensitivity", share))[0] for share in (0.9, 0.1))
    assert 0 < low < high < 1
    codes = [[index % 7 for index in range(weights.settings.vocabulary.tokens_per_image)]]
    decoder = weights.load_decoder("cpu", torch.float32)
    states = image_embeddings(decoder, weights.settings.vocabulary, codes, layers=[head.layer])
    assert 0 < head.probabilities(states[:, 0].numpy())[0, 0] < 1
    again = call(*base)
    assert "holds a run already" in again.stderr
    assert call(*base, "--resume").code == 2


def test_a_probe_can_read_a_grid_of_the_image(call, manifest, debug_weights, tmp_path):
    run = tmp_path / "run"
    base = ("finetune", "--task", "classify", "--method", "probe", "--manifest", manifest, "--init", debug_weights)
    done = call(*base, "--out", run, "--set", "probe.grid=2", "--set", "probe.components=3")
    assert done.code == 0, done.stderr
    weights, file = open_weights(debug_weights), run / "head.safetensors"
    head = Head.load(file)
    assert (head.grid, head.provenance["probe"]["components"]) == (2, 3)
    assert len(head.mean_D) == 4 * weights.settings.decoder.hidden_size
    shown = call("classify", manifest.parent, "--weights", debug_weights, "--head", file)
    assert shown.records[0]["probabilities"].keys() == set(head.labels)
    assert "head.safetensors: head of 1 findings, trained on films it does not describe" in shown.stderr
    # The same values in another dtype are the same model; other values are another one.
    call("weights", "convert", debug_weights, "-o", tmp_path / "narrow", "--dtype", "bfloat16")
    assert call("classify", manifest.parent, "--weights", tmp_path / "narrow", "--head", file).code == 0
    refused = call("classify", manifest.parent, "--head", file)
    assert (refused.code, "was made for other weights" in refused.stderr) == (1, True)


def test_codes_from_shards_give_the_probe_that_encoding_gives(call, manifest, debug_weights, tmp_path):
    paths = tmp_path / "paths.jsonl"
    lines = [json.loads(line) for line in manifest.read_text().splitlines()]
    paths.write_text("".join(json.dumps(line | {"file": str(manifest.parent / line["file"])}) + "\n" for line in lines))
    shards = tmp_path / "shards"
    made = call("tokenize", "-", "--weights", debug_weights, "-o", shards, stdin=paths.read_text())
    assert made.code == 0, made.stderr
    base = ("finetune", "--task", "classify", "--method", "probe", "--manifest", manifest, "--init", debug_weights)
    for name, more in (("films", ()), ("tokens", ("--tokens", shards))):
        done = call(*base, "--out", tmp_path / name, *more)
        assert done.code == 0, done.stderr
    first, second = (Head.load(tmp_path / name / "head.safetensors") for name in ("films", "tokens"))
    assert np.array_equal(first.weight_KD, second.weight_KD)
    assert first.validation == second.validation
    base = ("finetune", "--task", "classify", *DEBUG, "--manifest", manifest, "--init", debug_weights)
    refused = call(*base, "--out", tmp_path / "more", "--tokens", shards, "--set", "films.variants=2")
    assert refused.code == 2
    assert "films.variants: is 2; expected 1" in refused.stderr


def test_bad_requests_stop_before_the_first_step(call, manifest, debug_weights, tmp_path):
    run = tmp_path / "run"
    base = ("finetune", *DEBUG, "--manifest", manifest, "--init", debug_weights, "--out", run)
    cases = [
        (("classify", "--set", 'labels.names=["Masses"]'), 2, "no row of split 'train' has the label 'Masses'"),
        (("classify", "--set", 'labels.names=["Hernia"]'), 2, "'Hernia' has 0 present and 12 absent"),
        (("classify", "--set", "head.layer=3"), 2, "head.layer: is 3; expected 0..2"),
        (("classify", "--set", "head.layer=0"), 2, "no block stands before it"),
        (("classify", "--method", "probe", "--set", "probe.layers=[9]"), 2, "probe.layers: is 9"),
        (("classify", "--method", "probe", "--set", "probe.grid=5"), 2, "probe.grid: is 5; expected a number that"),
        (("retrieve", "--set", "contrast.layer=3"), 2, "contrast.layer: is 3"),
        (("report", "--set", "lora.rank=32"), 2, "lora.rank: is 32; expected below 32, the width of q"),
    ]
    for arguments, code, message in cases:
        result = call(*base, "--task", *arguments)
        assert message in result.stderr
        assert result.code == code
    lines = [json.loads(line) for line in manifest.read_text().splitlines()]
    silent = manifest.with_name("silent.jsonl")
    silent.write_text("".join(json.dumps({**line, "findings": None, "labels": {}}) + "\n" for line in lines))
    for task, message in (("report", "neither findings nor impression"), ("classify", "no finding has both classes")):
        result = call("finetune", "--task", task, *DEBUG, "--manifest", silent, "--init", debug_weights, "--out", run)
        assert (result.code, message in result.stderr) == (1, True), result.stderr
    assert not run.exists()


def test_start_weights_must_have_all_parts(call, manifest, debug_weights, tmp_path):
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("model.safetensors", "config.json"):
        (bare / name).write_bytes((debug_weights / name).read_bytes())
    base = ("finetune", *DEBUG, "--manifest", manifest, "--out", tmp_path / "run", "--init", bare)
    result = call(*base, "--task", "report")
    assert (result.code, "has no image tokenizer" in result.stderr) == (1, True)
    (bare / "vqgan.safetensors").write_bytes((debug_weights / "vqgan.safetensors").read_bytes())
    result = call(*base, "--task", "report")
    assert (result.code, "has no text tokenizer" in result.stderr) == (1, True)


@pytest.mark.slow
@pytest.mark.parametrize(("task", "parallel"), [("classify", "fsdp"), ("retrieve", "ddp")])
def test_two_processes_train_as_one(repository, call, manifest, debug_weights, tmp_path, task, parallel):
    arguments = ["finetune", "--task", task, *DEBUG, "--manifest", str(manifest), "--init", str(debug_weights)]
    arguments += ["--device", "cpu", "--set", f"train.parallel={parallel}", "--set", "train.micro_batch_size=2"]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0", "-m", "chexmix_cli", *arguments]
    two = [*command, "--out", str(tmp_path / "two")]
    done = subprocess.run(two, cwd=repository, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("works as --weights") == 1
    assert call(*arguments, "--out", tmp_path / "one").code == 0
    for left, right in zip(metrics(tmp_path / "one"), metrics(tmp_path / "two"), strict=True):
        assert left.pop("order", None) == right.pop("order", None)
        assert left == pytest.approx(right, rel=2e-4)
    adapters = [(tmp_path / run / "model/adapter/adapter_model.safetensors") for run in ("one", "two")]
    first, second = (load_file(path) for path in adapters)
    assert all(np.allclose(value, second[name], atol=1e-5) for name, value in first.items())
